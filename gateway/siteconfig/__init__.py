"""What a site config may say, as pydantic models, and how one is read: data only."""

from gateway.siteconfig.crosschecks import FIELDS
from gateway.siteconfig.dropin import (
    AddedField,
    Application,
    DropIn,
    Form,
    Idle,
    Messages,
    Partition,
    Preset,
    Rule,
    Script,
)
from gateway.siteconfig.reading import parse_drop_in, parse_site_config
from gateway.siteconfig.site import SiteConfig
from gateway.siteconfig.trusted import Jump, Login, Nodes, Tunnel
from gateway.siteconfig.words import BLANKS, DIRECTIVE_WORD, HOST, parse_memory, parse_walltime

__all__ = [
    "BLANKS",
    "DIRECTIVE_WORD",
    "FIELDS",
    "HOST",
    "AddedField",
    "Application",
    "DropIn",
    "Form",
    "Idle",
    "Jump",
    "Login",
    "Messages",
    "Nodes",
    "Partition",
    "Preset",
    "Rule",
    "Script",
    "SiteConfig",
    "Tunnel",
    "parse_drop_in",
    "parse_memory",
    "parse_site_config",
    "parse_walltime",
]
