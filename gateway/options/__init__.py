"""The form on which a job is chosen: its fields and rules, and the check of what came back.

What a person may choose from is an :class:`Offer`. The form is made of it, and `check` makes it anew:
whatever the browser sends, only what is offered becomes :class:`~gateway.model.Choices`.
"""

from gateway.options.checking import check, faults, from_strings, typed
from gateway.options.description import Form, as_json, fields, form, form_description
from gateway.options.fields import Field, Kind, Option
from gateway.options.offer import Offer, offer
from gateway.options.words import count_gpus, format_memory, format_walltime

__all__ = [
    "Field",
    "Form",
    "Kind",
    "Offer",
    "Option",
    "as_json",
    "check",
    "count_gpus",
    "faults",
    "fields",
    "form",
    "form_description",
    "format_memory",
    "format_walltime",
    "from_strings",
    "offer",
    "typed",
]
