"""Which functions touch no table of the target: PostgreSQL's own and its usual extensions'."""

from __future__ import annotations

import re

__all__ = ["counts", "is_advisory", "is_harmless"]

_ADVISORY = re.compile(r"pg_(try_)?advisory_(xact_)?(un)?lock(_shared|_all)?$")
_FAMILIES = re.compile(
    r"(pg|json|jsonb|array|regexp|date|string|inet|range|multirange|width|make|to|num|has|ts|"
    r"tsvector|tsquery|plainto|phraseto|websearch|uuid|gen|similarity|word|strict_word|st|txid|"
    r"current|xml|bit|bool|row|percent|jsonpath|network|host|isfinite|justify|age|clock|"
    r"statement|transaction|timeofday|setseed|enum|regr|obj|col|shobj|query|xpath|convert|"
    r"sha)(_\w+|\d*)$|hash\w+$|xml\w+$|uuidv\d$|(float|int|crc)\d+c?$"
)
_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
    abs acos acosd any_value area ascii asin asind atan atan2 atan2d atand avg bool_and bool_or
    broadcast btrim cardinality cast cbrt ceil ceiling center char_length character_length chr
    coalesce concat concat_ws corr cos cosd cot count covar_pop covar_samp crypt cume_dist currval
    decode decrypt degrees dense_rank digest div encode encrypt erf every exp extract factorial
    family first_value floor format format_type gcd generate_series generate_subscripts
    get_bit get_byte greatest grouping hex hmac hostmask icount if ifnull initcap insert
    inet_client_addr inet_client_port inet_merge inet_server_addr inet_server_port lag last_value
    lastval lcm lead least left length ln log log10 lower lower_inf lower_inc lpad ltrim
    masklen max md5 min mod mode netmask nextval normalize nth_value ntile nullif
    numnode octet_length overlay parse_ident pi point polygon position power quote_ident
    quote_literal quote_nullable radians random random_normal rank repeat replace reverse
    right round rpad rtrim scale set_config set_masklen set_bit set_byte setweight
    show_trgm sign sin sind split_part sqrt starts_with stddev stddev_pop stddev_samp strip strpos
    substr substring sum tan tand to_ascii translate trim trim_array trim_scale trunc
    unaccent unistr unnest upper upper_inc upper_inf user value_to var_pop var_samp variance
    version now localtime localtimestamp session_user inverse daterange int4range int8range
    numrange tsrange tstzrange int4multirange akeys avals hstore skeys svals each exist
    defined hstore_to_json min_scale lexize get_current_ts_config merge_action system_user
    unique levenshtein soundex metaphone dmetaphone difference ltree nlevel subpath
    text2ltree lquery cosine_distance l2_distance inner_product vector_dims notify rowtype
    box circle lseg line path diagonal height width diameter radius npoints isclosed isopen
        casefold cotd erfc gamma lgamma isempty bool bpchar bytea text varchar numeric timestamptz
        timezone int8multirange datemultirange nummultirange tsmultirange tstzmultirange
        is_normalized unicode_version overlaps notlike textcat satisfies current_database
    """,
    )
)


def counts(name: str) -> bool:
    """Whether it reads or sets where a sequence stands for all sessions."""
    return name.lower() in {"setval", "pg_sequence_last_value"}


def is_advisory(name: str) -> bool:
    """Whether it takes or gives back an advisory lock."""
    return _ADVISORY.fullmatch(name.lower()) is not None


def is_harmless(name: str) -> bool:
    """Whether a function that the parser does not know surely reads and writes no table.

    By name alone: a target that names a function of its own like a family of PostgreSQL's
    (``to_x``, ``date_x``) is taken for harmless.
    """
    name = name.lower()
    return name in _NAMES or _FAMILIES.fullmatch(name) is not None
