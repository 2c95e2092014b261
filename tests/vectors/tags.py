"""The vectors of protocol §4.5.1: tags, their canonical encoding and their blinded values; and what is no tags, or no book."""

from shared.codec.cbor import encode
from shared.statements.tag_book import TagBook
from shared.statements.tags import TagKey, canonical_tags
from tests.vectors.files import Json
from tests.vectors.samples import octets

KEYS = {"first": octets("tag key"), "second": octets("another tag key")}
GIVEN = (
    ("first", "acme", {"cost_centre": "search"}),
    ("first", "acme", {"team": "search", "project": "x"}),
    ("first", "acme", {"team": "search"}),
    ("first", "acme", {"a.b-c_1": "R&D / Zürich ☕"}),
    ("first", "acme", {"team": "Zu\u0308rich"}),  # not in form NFC
    ("first", "acme", {f"n{i}": "v" * 128 for i in range(16)}),
    ("first", "globex", {"team": "search"}),
    ("second", "acme", {"team": "search"}),
)
REFUSED: tuple[tuple[str, Json], ...] = (
    ("no tags", {}),
    ("too many tags", {f"n{i}": "v" for i in range(17)}),
    ("an empty name", {"": "v"}),
    ("a name in capitals", {"Team": "v"}),
    ("a name that begins with a digit", {"1st": "v"}),
    ("a name that is too long", {"n" * 64: "v"}),
    ("a name with a line feed at its end", {"team\n": "v"}),
    ("a name that is not ASCII", {"équipe": "v"}),
    ("an empty value", {"team": ""}),
    ("a value that is too long", {"team": "v" * 129}),
    ("a value with a space at its end", {"team": "search "}),
    ("a value with a line feed", {"team": "a\nb"}),
    ("a value with a direction override", {"team": "a\u202eb"}),
    ("a value that is a number", {"team": 5}),
    ("a value that is null", {"team": None}),
)


def vectors() -> Json:
    """Return the content of tags.json."""
    book = TagBook.of(TagKey(KEYS["first"]), "acme", [tags for _, _, tags in GIVEN[:2]])
    return {
        "keys": {name: key.hex() for name, key in KEYS.items()},
        "blinded": [
            {
                "key": key,
                "tenant": tenant,
                "tags": tags,
                "encoded": encode(canonical_tags(tags)).hex(),
                "cost_centre": TagKey(KEYS[key]).blind(tenant, tags).hex(),
            }
            for key, tenant, tags in GIVEN
        ],
        "refused": [{"name": name, "tags": tags} for name, tags in REFUSED],
        "book": book.encode().decode(),
    }
