from __future__ import annotations

RATINGS = "user_id,book_id,rating\n" + "".join(
    f"{user},{book},{rating}\n"
    for user, book, rating in [
        (1, 3, 5), (2, 1, 4), (2, 2, 5), (2, 3, 5), (1, 1, 3), (3, 2, 1), (3, 1, 2), (1, 2, 4),
        (4, 3, 4), (4, 2, 2),
    ]
)  # fmt: skip
BOOKS = (
    "book_id,goodreads_book_id,best_book_id,work_id,books_count,isbn,isbn13,authors,"
    "original_publication_year,original_title,title,language_code,average_rating,ratings_count,"
    "work_ratings_count,work_text_reviews_count,ratings_1,ratings_2,ratings_3,ratings_4,ratings_5,"
    "image_url,small_image_url\n"
    "1,2767052,2767052,2792775,272,439023483,9.78043902348e+12,Suzanne Collins,2008.0,"
    'The Hunger Games,"The Hunger Games (The Hunger Games, #1)",eng,4.34,1,1,1,1,1,1,1,1,u,u\n'
    '2,3,3,4640799,491,439554934,9.78043955493e+12,"J.K. Rowling, Mary GrandPré",1997.0,'
    'Philosopher\'s Stone,"Harry Potter ""1""",en-US,4.44,1,1,1,1,1,1,1,1,u,u\n'
    "3,41865,41865,3212258,226,,,Stephenie Meyer,-750.0,,Twilight,,3.57,1,1,1,1,1,1,1,1,u,u\n"
)
BOOK_TAGS = (
    "goodreads_book_id,tag_id,count\n3,2,37174\n3,0,167697\n2767052,1,12\n2767052,2,12\n9,1,1\n"
)
TAGS = 'tag_id,tag_name\n0,to-read\n1,--1-\n2,"fantasy, ya"\n'


def test_books_tags_and_the_order_of_the_file(load_sample, rows, item):
    data = load_sample(
        "goodbooks-10k",
        {
            "goodbooks-10k.zip": {
                "ratings.csv": RATINGS,
                "books.csv": BOOKS,
                "book_tags.csv": BOOK_TAGS,
                "tags.csv": TAGS,
                "__MACOSX/._books.csv": b"\x00\x05",
            }
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (4, 3, 10)
    assert rows(data, "label", "order")[:3] == [(1, 3, 5.0, 0), (1, 1, 3.0, 4), (1, 2, 4.0, 7)]
    assert data.titles(data.item_ids.encode([1, 2])) == [
        "The Hunger Games (The Hunger Games, #1)",
        'Harry Potter "1"',
    ]
    assert item(data, 2) == {
        "title": 'Harry Potter "1"',
        "authors": ["J.K. Rowling", "Mary GrandPré"],
        "tags": ["to-read", "fantasy, ya"],
        "publication_year": 1997,
        "language": "en-US",
    }
    assert item(data, 1)["tags"] == ["--1-", "fantasy, ya"]
    assert item(data, 3)["publication_year"] == -750
    assert item(data, 3)["language"] is None
    assert not item(data, 3)["tags"]
