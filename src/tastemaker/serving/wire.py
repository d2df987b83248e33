"""What goes over the wire: requests as they are checked, answers as they are documented."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tastemaker.serving.filters import Filters

__all__ = [
    "Answer",
    "ErrorAnswer",
    "EventsAnswer",
    "EventsRequest",
    "ExplainAnswer",
    "ExplainRequest",
    "FiltersRequest",
    "ItemAnswer",
    "ModelsAnswer",
    "RecommendRequest",
    "ReloadRequest",
    "ScoreAnswer",
    "ScoreRequest",
    "SimilarRequest",
]

# Ids are texts of some length without the NUL character, which PostgreSQL cannot store.
Id = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00]+$")]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[float, Field(ge=-1e11, le=1e11, allow_inf_nan=False)]


class Request(BaseModel):
    """Base of requests: unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FiltersRequest(Request):
    """Which items an answer may hold."""

    allow: list[Id] | None = Field(default=None, description="The only items allowed.")
    exclude: list[Id] = Field(default_factory=list, description="Items not allowed.")
    where: dict[Name, Any] = Field(
        default_factory=dict,
        description="Conditions on item attributes: a value, a list of values, "
        '{"in": [...]} or {"min": ..., "max": ...}.',
        examples=[{"genre": ["Drama", "Crime"], "price": {"max": 20}}],
    )
    include_seen: bool = Field(default=False, description="Whether items of the history may come.")
    caps: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Attribute -> most items of one value."
    )

    def filters(self) -> Filters:
        """The same for the engine."""
        return Filters(
            None if self.allow is None else tuple(self.allow),
            tuple(self.exclude),
            self.where,
            self.include_seen,
            self.caps,
        )


class Context(Request):
    """What is known of the moment."""

    timestamp: Time | None = Field(default=None, description="When it is asked, epoch seconds.")


class Subject(Request):
    """Whom a request is about."""

    user: Id | None = Field(default=None, description="A user id of your data, known or not.")
    history: list[Id] | None = Field(
        default=None, description="Item ids, oldest first; in place of what is known of the user."
    )
    model: Name | None = Field(
        default=None, description="A name of /models; by default the server's."
    )
    context: Context = Field(default_factory=Context)


class RecommendRequest(Subject):
    """Asks for the best items for a user, or for somebody with a history."""

    k: Annotated[int, Field(ge=1)] = Field(default=10, description="How many items.")
    filters: FiltersRequest = Field(default_factory=FiltersRequest)


class ScoreRequest(Subject):
    """Asks how given items score."""

    items: Annotated[list[Id], Field(min_length=1)]


class ExplainRequest(Subject):
    """Asks why an item scores as it does."""

    item: Id


class SimilarRequest(Request):
    """Asks for the items most like one."""

    item: Id
    k: Annotated[int, Field(ge=1)] = 10
    model: Name | None = None


class EventRequest(Request):
    """Something a user did."""

    event_id: Id = Field(description="Chosen by you; the same id is taken once.")
    user: Id
    item: Id
    timestamp: Time | None = Field(default=None, description="Epoch seconds; by default now.")
    behavior: Name | None = Field(default=None, description='Such as "click".')
    label: Finite | None = Field(default=None, description="Such as a rating.")


class EventsRequest(Request):
    """Events to keep; from then on they are part of their users' histories."""

    events: Annotated[list[EventRequest], Field(min_length=1)]


class ReloadRequest(Request):
    """Which run to serve from now on."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] | None = (
        Field(
            default=None, description="A folder beside the one served; by default that one again."
        )
    )


class ItemAnswer(BaseModel):
    """An item with what the data say of it."""

    model_config = ConfigDict(extra="allow")

    item: str
    title: str | None = None


class RankedItem(ItemAnswer):
    """An item of a list."""

    score: float


class Answer(BaseModel):
    """A ranked list."""

    request_id: str
    model: str
    run: str
    items: list[RankedItem]
    basis: str = Field(description="What the answer rests on, in words.")
    ignored: list[str] = Field(description="Given item ids that the run does not know.")


class ScoreAnswer(BaseModel):
    """Scores of items, in the order they were given."""

    model: str
    run: str
    items: list[RankedItem]
    basis: str
    ignored: list[str]


class Reason(BaseModel):
    """One reason for an item."""

    kind: str = Field(description='"item", "title", "field", "path" or "text".')
    item: str | None = None
    title: str | None = None
    text: str | None = None
    weight: float = Field(description="What the score owes to it.")


class ExplainAnswer(BaseModel):
    """Why an item scores as it does."""

    model: str
    run: str
    item: str
    score: float
    kind: str = Field(description="How reasons were found.")
    reasons: list[Reason]
    basis: str


class EventsAnswer(BaseModel):
    """What was kept."""

    accepted: int
    duplicates: int


class ModelAnswer(BaseModel):
    """A model that is served."""

    name: str
    method: str
    run: str
    data: str
    trained: str
    items: int
    users: int
    is_default: bool
    share: float | None = None
    attributes: list[str] = Field(description="What items can be filtered by.")
    metrics: dict[str, dict[str, float | None]]


class ModelsAnswer(BaseModel):
    """The models that are served."""

    models: list[ModelAnswer]


class Fault(BaseModel):
    """What was wrong."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Every answer but a good one."""

    error: Fault
