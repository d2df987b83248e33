from __future__ import annotations

import io
import json
import tarfile

REVIEWS = [
    {
        "review_id": f"r{row}",
        "user_id": ["mh_-eMZ6K5RLWhZyISBhwA", "OyoGAe7OKpv6SyGZT5g77Q", "gone"][row % 3],
        "business_id": ["XQfwVwDr-v0ZS3_CbbE5Xw", "7ATYjTIgM3jUlt4UM3IypQ"][row % 2],
        "stars": float(1 + row % 5),
        "useful": 0,
        "text": 'If you decide to eat here,\n"be" aware',
        "date": f"2018-07-07 22:09:{11 + row}",
    }
    for row in range(10)
]
BUSINESSES = [
    {
        "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw",
        "name": "Turning Point of North Wales, café",
        "address": "1460 Bethlehem Pike",
        "city": "North Wales",
        "state": "PA",
        "postal_code": "19454",
        "latitude": 40.21,
        "longitude": -75.22,
        "stars": 3.0,
        "review_count": 169,
        "is_open": 1,
        "attributes": {"NoiseLevel": "u'average'", "Ambience": "{'touristy': False}"},
        "categories": "Restaurants, Breakfast & Brunch, Food",
        "hours": {"Monday": "7:30-15:0"},
    },
    {
        "business_id": "7ATYjTIgM3jUlt4UM3IypQ",
        "name": "Body Cycle",
        "city": "Philadelphia",
        "state": "PA",
        "latitude": 39.95,
        "longitude": -75.17,
        "attributes": None,
        "categories": None,
        "hours": None,
    },
]
USERS = [
    {
        "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
        "name": "Walker",
        "review_count": 585,
        "yelping_since": "2007-01-25 16:47:26",
        "elite": "2007",
        "friends": "NSCy54eWehBJyZdG2iE84w, pe42u7DcCH2QmI81NX-8qA",
        "average_stars": 3.91,
    },
    {
        "user_id": "OyoGAe7OKpv6SyGZT5g77Q",
        "name": "Daniel",
        "yelping_since": "2009-01-25",
        "friends": "None",
    },
]


def nested_archive() -> dict[str, bytes]:
    """The members of the publisher's zip: a tar with the tables, and a document."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for table, lines in (("business", BUSINESSES), ("review", REVIEWS), ("user", USERS)):
            content = "".join(json.dumps(line) + "\n" for line in lines).encode()
            entry = tarfile.TarInfo(f"yelp_academic_dataset_{table}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return {"Yelp JSON/yelp_dataset.tar": buffer.getvalue(), "Yelp JSON/Dataset ToS.pdf": b"%PDF"}


def test_the_open_dataset_inside_its_zip(load_sample, rows, item, user):
    data = load_sample("yelp", {"Yelp-JSON.zip": nested_archive()})
    assert (data.n_users, data.n_items, data.n_interactions) == (3, 2, 10)
    assert rows(data, "label", "timestamp")[0] == (
        "mh_-eMZ6K5RLWhZyISBhwA",
        "XQfwVwDr-v0ZS3_CbbE5Xw",
        1.0,
        1531001351,  # 2018-07-07 22:09:11
    )
    assert item(data, "XQfwVwDr-v0ZS3_CbbE5Xw") == {
        "name": "Turning Point of North Wales, café",
        "city": "North Wales",
        "state": "PA",
        "latitude": 40.21,
        "longitude": -75.22,
        "categories": ["Restaurants", "Breakfast & Brunch", "Food"],
    }
    assert not item(data, "7ATYjTIgM3jUlt4UM3IypQ")["categories"]
    assert user(data, "mh_-eMZ6K5RLWhZyISBhwA") == {
        "yelping_since": 1169743646,
        "friends": ["NSCy54eWehBJyZdG2iE84w", "pe42u7DcCH2QmI81NX-8qA"],
    }
    assert user(data, "OyoGAe7OKpv6SyGZT5g77Q")["yelping_since"] == 1232841600  # a day alone
    assert not user(data, "OyoGAe7OKpv6SyGZT5g77Q")["friends"]
    assert not user(data, "gone")["friends"]  # in the reviews but not among the users
