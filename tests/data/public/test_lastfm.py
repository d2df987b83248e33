from __future__ import annotations

PLAYS = "userID\tartistID\tweight\r\n" + "".join(
    f"{user}\t{artist}\t{weight}\r\n"
    for user, artist, weight in [
        (2, 51, 13883), (2, 52, 11690), (2, 53, 11351), (3, 51, 185), (3, 54, 170),
        (4, 52, 3466), (4, 53, 3000), (4, 54, 2), (5, 51, 1), (5, 55, 9),
    ]
)  # fmt: skip
ARTISTS = (
    "id\tname\turl\tpictureURL\r\n"
    "51\tDuran Duran\thttp://www.last.fm/music/Duran+Duran\thttp://x/1.jpg\r\n"
    '52\t"Weird Al" Yankovic\thttp://x\thttp://x/2.jpg\r\n'
    "53\tSigur Rós 日本\thttp://x\thttp://x/3.jpg\r\n54\tAir\thttp://x\t\r\n55\tDoves\thttp://x\t\r\n"
)
TAGS = b'tagID\ttagValue\r\n1\tmetal\r\n2\tfran\xe7ais\r\n3\t80\'s "pop"\r\n'
GIVEN = (
    "userID\tartistID\ttagID\tday\tmonth\tyear\r\n"
    "2\t51\t1\t1\t4\t2009\r\n2\t51\t3\t1\t4\t2009\r\n3\t51\t3\t1\t5\t2009\r\n4\t54\t2\t1\t6\t2010\r\n"
    "4\t999\t1\t1\t6\t2010\r\n"
)
FRIENDS = "userID\tfriendID\r\n2\t275\r\n2\t3\r\n3\t2\r\n"


def test_tab_files_with_two_encodings(load_sample, rows, item, user):
    data = load_sample(
        "lastfm-hetrec",
        {
            "sample.zip": {
                "user_artists.dat": PLAYS,
                "artists.dat": ARTISTS,
                "tags.dat": TAGS,
                "user_taggedartists.dat": GIVEN,
                "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\r\n",
                "user_friends.dat": FRIENDS,
            }
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (4, 5, 10)
    assert rows(data, "weight")[:3] == [(2, 51, 13883), (2, 52, 11690), (2, 53, 11351)]
    assert data.titles(data.item_ids.encode([51, 52, 53])) == [
        "Duran Duran",
        '"Weird Al" Yankovic',
        "Sigur Rós 日本",
    ]
    assert item(data, 51)["tags"] == ['80\'s "pop"', "metal"]  # two users before one
    assert item(data, 54)["tags"] == ["français"]
    assert not item(data, 55)["tags"]
    assert user(data, 2)["friends"] == ["275", "3"]
    assert not user(data, 4)["friends"]
