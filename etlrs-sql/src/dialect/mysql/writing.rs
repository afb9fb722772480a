//! How columns of Arrow are written. `docs/type-mapping.md` has the tables.

use std::ops::RangeInclusive;

use arrow_schema::{DataType, Field};
use etlrs_core::{Error, ErrorKind, Result, type_name};

use super::catalog::Column;
use super::types::{TYPE_KEY, digits, remade, values_of_list};
use crate::types::cannot_hold;

/// What a text must be like for a type that would write another one in its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One of these.
    Enum(Vec<String>),
    /// Some of these, in their order, with commas between them.
    Set(Vec<String>),
    Uuid,
    Inet4,
    Inet6,
}

impl Form {
    /// Whether the server keeps `text` as it is.
    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            // Others would be taken for the number of a label, or for one that a collation finds alike.
            Self::Enum(labels) => labels.iter().any(|label| label == text),
            Self::Set(labels) => {
                let mut rest = labels.iter();
                text.is_empty() || text.split(',').all(|label| rest.any(|next| next == label))
            }
            Self::Uuid => {
                let is_hyphen = |index| matches!(index, 8 | 13 | 18 | 23);
                text.len() == 36
                    && text.bytes().enumerate().all(|(index, byte)| match byte {
                        b'-' => is_hyphen(index),
                        b'0'..=b'9' | b'a'..=b'f' => !is_hyphen(index),
                        _ => false,
                    })
            }
            Self::Inet4 => text.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.to_string() == text),
            // Some servers write the end of more addresses with points.
            Self::Inet6 => text
                .parse::<std::net::Ipv6Addr>()
                .is_ok_and(|address| address.to_string() == text || text.contains('.')),
        }
    }
}

/// How the server is given a value, and what it must be like to arrive unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Integer {
        least: i64,
        most: u64,
    },
    /// From 1901 to 2155, or 0. The server would complete others.
    Year,
    Float {
        single: bool,
    },
    Decimal,
    /// With so many characters and bytes at the most; `trimmed`: the server forgets blanks at the end.
    Text {
        characters: u64,
        octets: u64,
        trimmed: bool,
    },
    /// A text of a form.
    Form(Form),
    /// With so many bytes, of which the least are made up by zeros.
    Bytes {
        least: u64,
        most: u64,
    },
    Date,
    Time {
        step: i64,
    },
    /// In microseconds, which are a multiple of `step`.
    DateTime {
        step: i64,
        range: RangeInclusive<i64>,
    },
}

/// How the bytes of LOAD DATA become a value of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// By themselves.
    Plain,
    /// As text: it is of another character set, or of a type that looks at bytes in its own way.
    Converted,
    /// As a number: as text they would be the bits.
    Number,
}

/// How a column is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writing {
    /// The type of the column in the target, as SQL names it.
    pub(super) declared: String,
    /// The type of the column in the staging table.
    pub(super) staged: String,
    pub(super) put: Put,
    pub(super) taken: Taken,
    /// The server would put something in place of a null.
    pub(super) not_null: bool,
}

/// Why a type cannot be stored, and the cast that would help.
fn refuse<T>(field: &Field, reason: &str, hint: &'static str) -> Result<T> {
    let message = format!("{} {reason}", type_name(field.data_type()));
    Err(Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name()).hint(hint))
}

const ANY_TEXT: Put = Put::Text { characters: u64::MAX, octets: u64::MAX, trimmed: false };
const ANY_BYTES: Put = Put::Bytes { least: 0, most: u64::MAX };

/// What a server can.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) is_mariadb: bool,
    /// The greatest number of digits behind the point.
    pub(super) most_scale: i32,
}

impl Dialect {
    pub(super) fn of(is_mariadb: bool) -> Self {
        Self { is_mariadb, most_scale: if is_mariadb { 38 } else { 30 } }
    }
}

/// What holds every value of `data_type`.
fn natural(field: &Field, data_type: &DataType, dialect: Dialect) -> Result<(String, Put)> {
    use DataType::*;
    let integer = |least, most| Put::Integer { least, most };
    let (name, put) = match data_type {
        Boolean => ("tinyint(1)", integer(0, 1)),
        Int8 => ("tinyint", integer(i8::MIN.into(), i8::MAX as u64)),
        UInt8 => ("tinyint unsigned", integer(0, u8::MAX.into())),
        Int16 => ("smallint", integer(i16::MIN.into(), i16::MAX as u64)),
        UInt16 => ("smallint unsigned", integer(0, u16::MAX.into())),
        Int32 => ("int", integer(i32::MIN.into(), i32::MAX as u64)),
        UInt32 => ("int unsigned", integer(0, u32::MAX.into())),
        Int64 => ("bigint", integer(i64::MIN, i64::MAX as u64)),
        UInt64 => ("bigint unsigned", integer(0, u64::MAX)),
        Float16 | Float32 => ("float", Put::Float { single: true }),
        Float64 => ("double", Put::Float { single: false }),
        // JSON too, for a column of type json would order its keys, drop those that come twice, and round its numbers. All that a
        // column of type null holds is nulls.
        Null | Utf8 | LargeUtf8 | Utf8View => ("longtext", ANY_TEXT),
        FixedSizeBinary(length @ 1..=255) => {
            let bytes = u64::try_from(*length).unwrap_or_default();
            return Ok((format!("binary({length})"), Put::Bytes { least: bytes, most: bytes }));
        }
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => ("longblob", ANY_BYTES),
        Date32 => ("date", Put::Date),
        Time32(_) | Time64(_) => ("time(6)", Put::Time { step: 1 }),
        Timestamp(..) => ("datetime(6)", Put::DateTime { step: 1, range: DATETIMES }),
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => {
            let (whole, scale) = digits(data_type).unwrap_or_default();
            if whole + scale > 65 || scale > dialect.most_scale {
                let reason = format!(
                    "has more digits than a decimal of this server, which has 65, {} of them behind the point",
                    dialect.most_scale
                );
                return refuse(field, &reason, "cast it to text, or to a decimal of fewer digits");
            }
            return Ok((format!("decimal({},{scale})", (whole + scale).max(1)), Put::Decimal));
        }
        Dictionary(_, values) => return natural(field, values, dialect),
        Date64 => return refuse(field, "is a date in milliseconds", "cast it to date or timestamp"),
        Duration(_) | Interval(_) => return refuse(field, "has no counterpart here", "cast it to int64 or text"),
        _ => return refuse(field, "has no counterpart in MySQL", "cast it to text, or leave the column out"),
    };
    Ok((name.to_owned(), put))
}

/// Microseconds since 1970 that a DATETIME may have: the years 0 to 9999.
const DATETIMES: RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;
/// The same of a TIMESTAMP, which counts seconds from 1 in 31 bits.
const TIMESTAMPS: RangeInclusive<i64> = 1_000_000..=2_147_483_647_999_999;

fn values_of(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(data_type, Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}

/// Microseconds between the times of a column with so many digits of a second.
fn step(digits: u64) -> i64 {
    10_i64.pow(6 - u32::try_from(digits.min(6)).unwrap_or(6))
}

/// How a column that is there can be written.
pub(super) struct Existing {
    /// Into a staging table of types that read back as what was written, from which the rows are moved.
    pub(super) moved: Writing,
    /// Into one of the target's types, if they do so as well.
    pub(super) direct: Option<Writing>,
}

impl Writing {
    /// Into a table that is made for it; a column of the key is part of an index.
    pub(super) fn created(field: &Field, is_key: bool, keys: usize, dialect: Dialect) -> Result<Self> {
        let (name, put) = natural(field, field.data_type(), dialect)?;
        let not_null = is_key || !field.is_nullable();
        let plain =
            |declared: String, put| Self { staged: declared.clone(), declared, put, taken: Taken::Plain, not_null };
        let source = values_of(field.data_type());
        let remembered = field.metadata().get(TYPE_KEY).and_then(|name| remade(name));
        let remembered =
            remembered.filter(|name| dialect.is_mariadb || !matches!(name.as_str(), "uuid" | "inet4" | "inet6"));
        if let Some(declared) = remembered
            && let Some(column) = column_of(&declared)
            && !(is_key && column.data_type.ends_with("text"))
            && let Some((put, taken)) = fit(source, &column)
        {
            return Ok(Self { put, taken, ..plain(declared, ANY_TEXT) });
        }
        if is_key && matches!(name.as_str(), "longtext" | "longblob") {
            // An index has 3072 bytes at the most, and a character four.
            let most = 3072 / keys.max(1) as u64;
            let (declared, put) = if name == "longtext" {
                let characters = most / 4;
                (format!("varchar({characters})"), Put::Text { characters, octets: u64::MAX, trimmed: false })
            } else {
                (format!("varbinary({most})"), Put::Bytes { least: 0, most })
            };
            return Ok(plain(declared, put));
        }
        let taken = if name == "json" { Taken::Converted } else { Taken::Plain };
        Ok(Self { taken, ..plain(name, put) })
    }

    /// Into a column that is there.
    pub(super) fn existing(field: &Field, column: &Column, dialect: Dialect) -> Result<Existing> {
        let source = values_of(field.data_type());
        let (staged, _) = natural(field, source, dialect)?;
        let Some((put, taken)) = fit(source, column) else {
            return Err(cannot_hold(field, &column.column_type, None));
        };
        let declared = column.column_type.clone();
        let family = |name: &str| name.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let same = match &put {
            Put::Integer { .. } | Put::Year => source.is_integer() && taken == Taken::Plain,
            Put::Float { single } => *single == matches!(source, DataType::Float16 | DataType::Float32),
            Put::Decimal => digits(source).is_some_and(|(_, scale)| column.scale == u64::try_from(scale).ok()),
            Put::Text { .. } | Put::Form(_) => taken == Taken::Plain,
            Put::DateTime { .. } => {
                matches!(source, DataType::Timestamp(_, zone) if zone.is_some() == (column.data_type == "timestamp"))
            }
            _ => family(&staged) == family(&column.data_type),
        };
        let same = same && *source != DataType::Null && *source != DataType::Boolean;
        let not_null = column.not_null;
        let direct = same.then(|| {
            let put = put.clone();
            Self { declared: declared.clone(), staged: declared.clone(), put, taken, not_null }
        });
        Ok(Existing { moved: Self { declared, staged, put, taken: Taken::Plain, not_null }, direct })
    }
}

/// A column of that type, as the catalogue would have it.
fn column_of(declared: &str) -> Option<Column> {
    let data_type = declared.split(['(', ' ']).next()?.to_owned();
    let argument = declared.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')?.parse().ok());
    let octets = match data_type.as_str() {
        "tinytext" | "tinyblob" => Some(255),
        "text" | "blob" => Some(65_535),
        "mediumtext" | "mediumblob" => Some(16_777_215),
        "varbinary" => argument,
        _ => None,
    };
    Some(Column {
        name: String::new(),
        column_type: declared.to_owned(),
        not_null: false,
        has_default: false,
        auto_increment: false,
        generated: false,
        charset: Some("utf8mb4".into()),
        collation: None,
        characters: argument,
        octets,
        precision: argument,
        scale: None,
        fraction: Some(argument.unwrap_or(0)),
        data_type,
    })
}

/// How values of `source` get into a column, if it can hold them. What does not depend on the types alone is checked value by
/// value: by the encoder, or by the server, which refuses a number that is too large.
fn fit(source: &DataType, column: &Column) -> Option<(Put, Taken)> {
    use DataType::*;
    let unsigned = column.is_unsigned();
    let integer = |bits: u32| {
        let most = u64::MAX >> (64 - bits);
        if unsigned {
            Put::Integer { least: 0, most }
        } else {
            Put::Integer { least: -((most >> 1) as i64) - 1, most: most >> 1 }
        }
    };
    // Without digits behind the point a decimal is an integer.
    let whole = matches!(source, Decimal32(_, 0) | Decimal64(_, 0) | Decimal128(_, 0) | Decimal256(_, 0));
    let number = source.is_integer() || *source == Boolean || whole;
    let exact = |most: u64| Put::Integer { least: -(most as i64), most };
    // Of another character set the server knows how many there are.
    let counted = column.charset.as_deref().is_none_or(|charset| charset == "utf8mb4");
    let octets = column.octets.filter(|_| counted).unwrap_or(u64::MAX);
    let fraction = column.fraction.unwrap_or(0);
    let plain = |put| Some((put, Taken::Plain));
    let converted = |put| Some((put, Taken::Converted));
    match column.data_type.as_str() {
        // All that it holds is nulls.
        _ if *source == Null => plain(ANY_TEXT),
        "tinyint" if number => plain(integer(8)),
        "smallint" if number => plain(integer(16)),
        "mediumint" if number => plain(integer(24)),
        "int" | "integer" if number => plain(integer(32)),
        "bigint" if number => plain(integer(64)),
        "year" if number && *source != Boolean => plain(Put::Year),
        "bit" if number => {
            let bits = column.precision.unwrap_or(1).clamp(1, 64) as u32;
            Some((Put::Integer { least: 0, most: u64::MAX >> (64 - bits) }, Taken::Number))
        }
        // With digits of its own it rounds.
        "float" | "double" if column.scale.is_some() => None,
        "float" if matches!(source, Float16 | Float32) => plain(Put::Float { single: true }),
        "float" if number && *source != UInt64 => plain(exact(1 << 24)),
        "double" if matches!(source, Float16 | Float32 | Float64) => plain(Put::Float { single: false }),
        "double" if number && *source != UInt64 => plain(exact(1 << 53)),
        "decimal" if digits(source).is_some() => {
            let (_, scale) = digits(source)?;
            (u64::try_from(scale).ok()? <= column.scale?).then_some((Put::Decimal, Taken::Plain))
        }
        "char" | "varchar" if is_text(source) => {
            let characters = column.characters.unwrap_or(u64::MAX);
            let taken = if column.charset.as_deref() == Some("utf8mb4") { Taken::Plain } else { Taken::Converted };
            Some((Put::Text { characters, octets: u64::MAX, trimmed: column.data_type == "char" }, taken))
        }
        "tinytext" | "text" | "mediumtext" | "longtext" if is_text(source) => {
            let taken = if column.charset.as_deref() == Some("utf8mb4") { Taken::Plain } else { Taken::Converted };
            Some((Put::Text { characters: u64::MAX, octets, trimmed: false }, taken))
        }
        "json" if is_text(source) => converted(ANY_TEXT),
        "enum" if is_text(source) => converted(Put::Form(Form::Enum(labels(&column.column_type)?))),
        "set" if is_text(source) => converted(Put::Form(Form::Set(labels(&column.column_type)?))),
        "uuid" if is_text(source) => converted(Put::Form(Form::Uuid)),
        "inet4" if is_text(source) => converted(Put::Form(Form::Inet4)),
        "inet6" if is_text(source) => converted(Put::Form(Form::Inet6)),
        "binary" if is_binary(source) => plain(Put::Bytes { least: octets, most: octets }),
        "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector" if is_binary(source) => {
            plain(Put::Bytes { least: 0, most: octets })
        }
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
        | "geometrycollection" | "geomcollection"
            if is_binary(source) =>
        {
            plain(ANY_BYTES)
        }
        "date" if *source == Date32 => plain(Put::Date),
        "time" if matches!(source, Time32(_) | Time64(_)) => plain(Put::Time { step: step(fraction) }),
        "datetime" if matches!(source, Timestamp(..)) => {
            plain(Put::DateTime { step: step(fraction), range: DATETIMES })
        }
        "timestamp" if matches!(source, Timestamp(_, Some(_))) => {
            plain(Put::DateTime { step: step(fraction), range: TIMESTAMPS })
        }
        _ => None,
    }
}

/// The labels of `enum('a','b')`.
fn labels(column_type: &str) -> Option<Vec<String>> {
    let (_, rest) = column_type.split_once('(')?;
    values_of_list(rest.strip_suffix(')')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_a_type_would_rewrite_are_told() {
        let labels = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (form, text, expected) in [
            (Form::Enum(labels("a b")), "a", true),
            (Form::Enum(labels("a b")), "A", false),
            (Form::Enum(labels("a b")), "1", false),
            (Form::Enum(labels("a b")), "", false),
            (Form::Set(labels("x y z")), "x,z", true),
            (Form::Set(labels("x y z")), "", true),
            (Form::Set(labels("x y z")), "z,x", false),
            (Form::Set(labels("x y z")), "x,x", false),
            (Form::Set(labels("x y z")), "3", false),
            (Form::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", true),
            (Form::Uuid, "A0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", false),
            (Form::Uuid, "a0eebc999c0b4ef8bb6d6bb9bd380a11", false),
            (Form::Inet4, "10.0.0.1", true),
            (Form::Inet6, "::1", true),
            (Form::Inet6, "::0001", false),
        ] {
            assert_eq!(form.holds(text), expected, "{form:?} {text:?}");
        }
    }
}
