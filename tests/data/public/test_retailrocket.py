from __future__ import annotations

import math

EVENTS = """\
timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433224214164,992329,view,248676,
1433221999827,111016,view,318965,
1433221955914,483717,view,253185,
1433221337106,257597,addtocart,355908,
1433224086234,972639,view,22556,
1433221923240,810725,transaction,355908,4000
1433223291897,794181,view,439202,
1433220899221,824915,view,428805,
1433221332118,257597,transaction,248676,4001
"""
PART_1 = """\
timestamp,itemid,property,value
1435460400000,355908,categoryid,1338
1441508400000,248676,888,1116713 960601 n277.200
1433041200000,355908,790,n15360.000
1439089200000,355908,790,n12000.000
1433041200000,355908,available,0
"""
PART_2 = """\
timestamp,itemid,property,value
1442113200000,355908,categoryid,1114
1433041200000,248676,categoryid,9999
1439089200000,355908,available,1
1431831600000,22556,categoryid,213
1431831600000,777777,categoryid,213
"""
TREE = "categoryid,parentid\n1114,213\n213,1532\n1532,\n1338,1278\n5,6\n6,5\n"


def test_events_and_the_last_readable_properties(load_sample, rows, item):
    data = load_sample(
        "retailrocket",
        {
            "archive.zip": {
                "events.csv": EVENTS,
                "item_properties_part1.csv": PART_1,
                "item_properties_part2.csv": PART_2,
                "category_tree.csv": TREE,
            }
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (8, 7, 10)
    assert rows(data, "behavior", "timestamp")[:3] == [
        (257597, 355908, "view", 1433221332.117),
        (257597, 248676, "transaction", 1433221332.118),
        (257597, 355908, "addtocart", 1433221337.106),
    ]
    assert item(data, 355908) == {
        "categories": ["1114", "213", "1532"],
        "available": "1",
        "price": 12000,
    }
    assert item(data, 248676)["categories"] == ["9999"]  # not in the tree
    assert item(data, 22556)["categories"] == ["213", "1532"]
    assert math.isnan(item(data, 22556)["price"])
    assert not item(data, 439202)["categories"]  # an item without properties
