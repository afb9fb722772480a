//! How Arrow types and those of PostgreSQL stand for each other. `docs/type-mapping.md` has the tables.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, as_json_text, is_json_text, type_name};

use super::catalog::Column;
use crate::types::{as_wished, cannot_hold};

/// In the metadata of a field that is read as text: the type that its column has, for a table that is made of it again.
pub(super) const TYPE_KEY: &str = "postgres.type";

/// How a value is written within COPY: the binary form of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Also that of varchar, char, json and enums.
    Text,
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Time,
    /// Also that of timestamptz.
    Timestamp,
}

impl Wire {
    /// Of the type with this OID (`src/include/catalog/pg_type.dat`); `None`: it is read and written as text.
    fn of(column: &Column) -> Option<Self> {
        Some(match column.type_oid {
            16 => Self::Bool,
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            700 => Self::Float4,
            701 => Self::Float8,
            1700 => Self::Numeric,
            // text, varchar, char(n), json
            25 | 1043 | 1042 | 114 => Self::Text,
            _ if column.is_enum => Self::Text,
            3802 => Self::Jsonb,
            2950 => Self::Uuid,
            17 => Self::Bytea,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 | 1184 => Self::Timestamp,
            _ => return None,
        })
    }
}

const TIMESTAMPTZ: u32 = 1184;
const OID: u32 = 26;

/// Digits in all and after the point of a numeric, if its type modifier has them.
fn digits_of(typmod: i32) -> Option<(i32, i32)> {
    // `((precision << 16) | scale) + 4`, the scale being of 11 bits and signed since version 15.
    let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
    Some((packed >> 16, ((packed & 0x7ff) ^ 1024) - 1024))
}

/// The same, if a decimal of Arrow can have them too.
fn decimal_of(typmod: i32) -> Option<(u8, u8)> {
    let (precision, scale) = digits_of(typmod)?;
    let precision = u8::try_from(precision).ok().filter(|precision| *precision <= 76)?;
    let scale = u8::try_from(scale).ok().filter(|scale| *scale <= precision)?;
    Some((precision, scale))
}

fn decimal(precision: u8, scale: u8) -> DataType {
    // A scale is at most 76.
    let scale = scale as i8;
    if precision <= 38 { DataType::Decimal128(precision, scale) } else { DataType::Decimal256(precision, scale) }
}

/// How a column is read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) field: Arc<Field>,
    pub(super) wire: Wire,
    /// The type that the server casts it to.
    pub(super) cast: Option<&'static str>,
    /// A column of type text or varchar, read as it is.
    pub(super) plain_text: bool,
    /// Why it is text, for the plan.
    pub(super) note: Option<String>,
}

impl Reading {
    /// Of `column`, as the type `wished` if the user names one.
    pub(super) fn new(column: &Column, wished: Option<&DataType>) -> Result<Self> {
        let declared = Self::declared(column);
        let Some(wished) = wished else { return Ok(declared) };
        if wished == declared.field.data_type() {
            let field = Arc::new(as_wished(&declared.field));
            return Ok(Self { field, ..declared });
        }
        let wire = Wire::of(column);
        let number = matches!(wire, Some(Wire::Int2 | Wire::Int4 | Wire::Int8 | Wire::Numeric));
        let (wire, cast) = match wished {
            DataType::Utf8 => (Wire::Text, Some("text")),
            DataType::Decimal128(..) | DataType::Decimal256(..) if number => (Wire::Numeric, Some("numeric")),
            DataType::Float64 if number || wire == Some(Wire::Float4) => (Wire::Float8, Some("float8")),
            DataType::Int32 if wire == Some(Wire::Int2) => (Wire::Int4, Some("int4")),
            DataType::Int64 if matches!(wire, Some(Wire::Int2 | Wire::Int4)) => (Wire::Int8, Some("int8")),
            DataType::Binary if wire == Some(Wire::Text) => (Wire::Text, None),
            DataType::FixedSizeBinary(16) if wire == Some(Wire::Uuid) => (Wire::Uuid, None),
            _ => {
                let (from, to) = (&column.type_name, type_name(wished));
                return Err(Error::new(ErrorKind::InvalidConfig, format!("{from} cannot be read as {to} exactly"))
                    .at_column(&column.name)
                    .hint("read it as text, or cast it in a query"));
            }
        };
        let field = Field::new(&column.name, wished.clone(), !column.not_null);
        Ok(Self { field: Arc::new(field), wire, cast, plain_text: false, note: None })
    }

    fn declared(column: &Column) -> Self {
        let mut as_text = false;
        let (data_type, wire, cast) = match Wire::of(column) {
            Some(wire) => {
                let data_type = match wire {
                    Wire::Bool => DataType::Boolean,
                    Wire::Int2 => DataType::Int16,
                    Wire::Int4 => DataType::Int32,
                    Wire::Int8 => DataType::Int64,
                    Wire::Float4 => DataType::Float32,
                    Wire::Float8 => DataType::Float64,
                    Wire::Numeric => match decimal_of(column.typmod) {
                        Some((precision, scale)) => decimal(precision, scale),
                        None => {
                            as_text = true;
                            DataType::Utf8
                        }
                    },
                    Wire::Text | Wire::Jsonb | Wire::Uuid => DataType::Utf8,
                    Wire::Bytea => DataType::Binary,
                    Wire::Date => DataType::Date32,
                    Wire::Time => DataType::Time64(TimeUnit::Microsecond),
                    Wire::Timestamp if column.type_oid == TIMESTAMPTZ => {
                        DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
                    }
                    Wire::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
                };
                (data_type, wire, None)
            }
            // An OID is 32 bits without a sign.
            None if column.type_oid == OID => (DataType::Int64, Wire::Int8, Some("int8")),
            None => {
                as_text = true;
                (DataType::Utf8, Wire::Text, Some("text"))
            }
        };
        let mut field = Field::new(&column.name, data_type, !column.not_null);
        let plain_text = matches!(column.type_oid, 25 | 1043 | 1042);
        let remakes_text = field.data_type() == &DataType::Utf8 && !plain_text && remade(&column.type_name).is_some();
        if remakes_text || remade_time(&column.type_name, field.data_type()).is_some() {
            field = field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), column.type_name.clone())]));
        }
        // json and jsonb.
        if matches!(column.type_oid, 114 | 3802) {
            field = as_json_text(field);
        }
        let note = as_text.then(|| {
            let hint = if wire == Wire::Numeric { "; types=COLUMN:decimal(P,S) reads it as a decimal" } else { "" };
            format!("column {:?} is {}: read as text{hint}", column.name, column.type_name)
        });
        Self { field: Arc::new(field), wire, cast, plain_text: matches!(column.type_oid, 25 | 1043), note }
    }
}

/// Types of the catalogue that a column may be given by the metadata of a field. What is in a file is not to be trusted,
/// so nothing but these names reaches SQL.
const REMADE: &[&str] = &[
    "uuid",
    "json",
    "jsonb",
    "numeric",
    "interval",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "xml",
    "money",
    "time with time zone",
    "bit",
    "bit varying",
    "tsvector",
    "tsquery",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "pg_lsn",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "int4multirange",
    "int8multirange",
    "nummultirange",
    "datemultirange",
    "tsmultirange",
    "tstzmultirange",
];

/// Types besides that can be the elements of an array.
const ELEMENTS: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "text",
    "character varying",
    "bytea",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
];

/// The type of that name, taken apart and put together again: `NAME`, `NAME(N,N)`, `NAME[]`; and the same without digits, such
/// that casting to it cuts nothing off.
fn remade(name: &str) -> Option<(String, String)> {
    let (element, array) = name.strip_suffix("[]").map_or((name, ""), |element| (element, "[]"));
    let (base, digits) = match element.split_once('(') {
        Some((base, rest)) => (base, Some(rest.strip_suffix(')')?)),
        None => (element, None),
    };
    let elements = ELEMENTS.iter().filter(|_| !array.is_empty());
    let base = REMADE.iter().chain(elements).find(|known| **known == base)?;
    // `bit` is short for `bit(1)`, but not in quotes.
    let bare = if *base == "bit" { format!("\"bit\"{array}") } else { format!("{base}{array}") };
    let Some(digits) = digits else { return Some((format!("{base}{array}"), bare)) };
    let digits: Option<Vec<i16>> = digits.split(',').map(|digits| digits.parse().ok()).collect();
    let digits: Vec<_> = digits?.iter().map(i16::to_string).collect();
    Some((format!("{base}({}){array}", digits.join(",")), bare))
}

/// How a column is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writing {
    /// The type of the column in the target, as SQL names it.
    pub(super) declared: String,
    /// The type of the column in the staging table.
    pub(super) staged: String,
    pub(super) wire: Wire,
    /// The type that the server casts it to when it is moved to the target, if it would not do so by itself. It has no
    /// modifier, for casting to one with it cuts values off.
    pub(super) cast: Option<String>,
    /// Characters that the column holds at the most; the server would cut off blanks beyond them.
    pub(super) longest: Option<usize>,
    /// The greatest magnitude of an integer; the server would round others to a float.
    pub(super) most: Option<u64>,
    /// Microseconds of which a time must be a multiple; the server would round others.
    pub(super) step: i64,
}

/// Microseconds between the times that a type modifier, a number of digits, allows.
fn step(typmod: i32) -> i64 {
    let missing = u32::try_from(6 - typmod).unwrap_or(0);
    if typmod < 0 { 1 } else { 10_i64.pow(missing.min(6)) }
}

/// Digits after the point of a time of this type, from the name that a column of its has (`time(3) without time zone`).
fn remade_time(name: &str, data_type: &DataType) -> Option<i32> {
    let (start, end) = match data_type {
        DataType::Time32(_) | DataType::Time64(_) => ("time(", ") without time zone"),
        DataType::Timestamp(_, None) => ("timestamp(", ") without time zone"),
        DataType::Timestamp(_, Some(_)) => ("timestamp(", ") with time zone"),
        _ => return None,
    };
    let digits = name.strip_prefix(start)?.strip_suffix(end)?.parse().ok()?;
    (0..=6).contains(&digits).then_some(digits)
}

/// How a column that is there can be written.
pub(super) struct Existing {
    /// Into a staging table of types that read back as what was written, from which the rows are moved.
    pub(super) moved: Writing,
    /// Into one of the target's types, if they do so as well.
    pub(super) direct: Option<Writing>,
}

/// Why a type cannot be stored, and the cast that would help.
fn refuse<T>(field: &Field, reason: &str, hint: &'static str) -> Result<T> {
    let message = format!("{} {reason}", type_name(field.data_type()));
    Err(Error::new(ErrorKind::SchemaMismatch, message).at_column(field.name()).hint(hint))
}

/// What holds every value of `data_type`: name and wire.
fn natural(field: &Field, data_type: &DataType) -> Result<(String, Wire)> {
    use DataType::*;
    // The canonical extension types of Arrow, which Parquet files have.
    let extension = field.extension_type_name();
    let (name, wire) = match data_type {
        FixedSizeBinary(16) if extension == Some("arrow.uuid") => ("uuid", Wire::Uuid),
        Utf8 | LargeUtf8 | Utf8View if is_json_text(field) => ("json", Wire::Text),
        Boolean => ("boolean", Wire::Bool),
        Int8 | Int16 | UInt8 => ("smallint", Wire::Int2),
        Int32 | UInt16 => ("integer", Wire::Int4),
        Int64 | UInt32 => ("bigint", Wire::Int8),
        UInt64 => ("numeric(20,0)", Wire::Numeric),
        Float16 | Float32 => ("real", Wire::Float4),
        Float64 => ("double precision", Wire::Float8),
        // All that a column of type null holds is nulls.
        Null | Utf8 | LargeUtf8 | Utf8View => ("text", Wire::Text),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => ("bytea", Wire::Bytea),
        Date32 => ("date", Wire::Date),
        Time32(_) | Time64(_) => ("time", Wire::Time),
        Timestamp(_, None) => ("timestamp", Wire::Timestamp),
        Timestamp(_, Some(_)) => ("timestamptz", Wire::Timestamp),
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => {
            let (whole, scale) = digits(data_type).unwrap_or_default();
            return Ok((format!("numeric({},{scale})", (whole + scale).max(1)), Wire::Numeric));
        }
        Dictionary(_, values) => return natural(field, values),
        Date64 => return refuse(field, "is a date in milliseconds", "cast it to date or timestamp"),
        Duration(_) | Interval(_) => return refuse(field, "has no counterpart here", "cast it to int64 or text"),
        _ => return refuse(field, "has no counterpart in PostgreSQL", "cast it to text, or leave the column out"),
    };
    Ok((name.to_owned(), wire))
}

/// Digits before and after the point that values of a number type may have.
fn digits(data_type: &DataType) -> Option<(i32, i32)> {
    use DataType::*;
    Some(match data_type {
        Int8 | UInt8 => (3, 0),
        Int16 | UInt16 => (5, 0),
        Int32 | UInt32 => (10, 0),
        Int64 => (19, 0),
        UInt64 => (20, 0),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            let (precision, scale) = (i32::from(*p), i32::from(*s));
            ((precision - scale).max(0), scale.max(0))
        }
        _ => return None,
    })
}

fn values_of(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl Writing {
    /// Of a type that is staged as it is.
    fn plain(declared: String, wire: Wire) -> Self {
        Self { staged: declared.clone(), declared, wire, cast: None, longest: None, most: None, step: 1 }
    }

    /// The staged column `name`, a quoted name, as it is moved to the target.
    pub(super) fn moved(&self, name: &str) -> String {
        self.cast.as_ref().map_or_else(|| name.to_owned(), |cast| format!("{name}::{cast}"))
    }

    /// Whether the cast or the move to the target may change a value, which the server does without an error.
    pub(super) fn may_change(&self) -> bool {
        let modified = self.declared.contains('(');
        self.cast.as_ref().is_some_and(|cast| modified || matches!(cast.as_str(), "name" | "\"char\""))
    }

    /// Into a table that is made for it.
    pub(super) fn created(field: &Field) -> Result<Self> {
        let (declared, wire) = natural(field, field.data_type())?;
        let remembered = field.metadata().get(TYPE_KEY);
        if let Some(digits) = remembered.and_then(|name| remade_time(name, field.data_type())) {
            // `timestamptz(3)`
            let declared = format!("{declared}({digits})");
            return Ok(Self { step: step(digits), ..Self::plain(declared, wire) });
        }
        let remembered = remembered.filter(|_| is_text(values_of(field.data_type())));
        let Some((declared, bare)) = remembered.and_then(|name| remade(name)) else {
            return Ok(Self::plain(declared, wire));
        };
        let known = match declared.as_str() {
            "uuid" => Some(Wire::Uuid),
            "json" => Some(Wire::Text),
            "jsonb" => Some(Wire::Jsonb),
            "numeric" => Some(Wire::Numeric),
            _ => None,
        };
        Ok(match known {
            Some(wire) => Self::plain(declared, wire),
            None => Self { staged: "text".into(), cast: Some(bare), ..Self::plain(declared, Wire::Text) },
        })
    }

    /// Into a column that is there.
    pub(super) fn existing(field: &Field, column: &Column) -> Result<Existing> {
        use DataType::*;
        let source = values_of(field.data_type());
        let (staged, natural) = natural(field, source)?;
        let declared = column.type_name.clone();
        let wire = Wire::of(column);
        // What does not depend on the type alone is checked value by value: by the encoder, or by the server, which refuses
        // a number that is too large and rounds one that is too fine.
        let integer = source.is_integer() && *source != UInt64;
        let fits = match wire {
            _ if *source == Null => true,
            Some(Wire::Bool) => *source == Boolean,
            Some(Wire::Int2 | Wire::Int4 | Wire::Int8) => source.is_integer(),
            Some(Wire::Float4) => integer || matches!(source, Float16 | Float32),
            Some(Wire::Float8) => integer || matches!(source, Float16 | Float32 | Float64),
            Some(Wire::Numeric) => match (digits(source), column.digits()) {
                (Some((_, scale)), Some((_, s))) => scale <= s,
                // Without digits of its own it holds any number.
                (Some(_), None) => true,
                // Text that was read from such a column.
                (None, _) => is_text(source) && remembers(field, &column.type_name),
            },
            // The server tells when a number is none.
            None if column.type_oid == OID => source.is_integer(),
            Some(Wire::Uuid) if natural == Wire::Uuid => true,
            Some(Wire::Text | Wire::Jsonb | Wire::Uuid) | None => is_text(source),
            Some(Wire::Bytea) => matches!(source, Binary | LargeBinary | BinaryView | FixedSizeBinary(_)),
            Some(Wire::Date) => *source == Date32,
            Some(Wire::Time) => matches!(source, Time32(_) | Time64(_)),
            Some(Wire::Timestamp) => {
                matches!(source, Timestamp(_, zone) if zone.is_some() == (column.type_oid == TIMESTAMPTZ))
            }
        };
        if !fits {
            let error = cannot_hold(field, &column.type_name, Some(Reading::declared(column).field.data_type()));
            return Err(match column.is_any_number() {
                true => error.hint(format!(
                    "read it as a decimal, as with the source option types={}:decimal(18,4), or decimals=true of CSV files",
                    field.name()
                )),
                false => error,
            });
        }
        let plain_text = matches!(column.type_oid, 25 | 1043);
        let by_itself = plain_text || natural != Wire::Text && wire.is_some();
        let cast = (!by_itself).then(|| column.bare_type.clone());
        let is_int = |wire| matches!(wire, Wire::Int2 | Wire::Int4 | Wire::Int8);
        let reads_back = |wire: &Wire| match wire {
            // Reads back without the zeros, or with more of them.
            Wire::Numeric => digits(source).is_some_and(|(_, scale)| column.digits().is_some_and(|(_, s)| s == scale)),
            // The server pads, or writes in another way, what is not from such a column.
            Wire::Text => column.type_oid != 1042 && natural == Wire::Text,
            Wire::Jsonb => remembers(field, "jsonb"),
            Wire::Uuid => natural == Wire::Uuid || remembers(field, "uuid"),
            wire => *wire == natural || is_int(*wire) && is_int(natural),
        };
        let direct = wire.filter(|wire| reads_back(wire) && *source != Null);
        let step = if matches!(natural, Wire::Time | Wire::Timestamp) { step(column.typmod) } else { 1 };
        // The type modifier of a varchar is its length and 4.
        let length = usize::try_from(column.typmod - 4).ok().filter(|_| column.type_oid == 1043);
        let direct = direct.map(|wire| Self { longest: length, step, ..Self::plain(declared.clone(), wire) });
        let most = match wire {
            Some(Wire::Float4) if integer => Some(1 << 24),
            Some(Wire::Float8) if integer => Some(1 << 53),
            _ => None,
        };
        // Numbers are checked one by one as they are staged, where the place of each is known.
        let (staged, wire) = match wire {
            Some(wire) if is_int(wire) && is_int(natural) => (declared.clone(), wire),
            _ => (staged, natural),
        };
        Ok(Existing { moved: Self { declared, staged, wire, cast, longest: length, most, step }, direct })
    }
}

fn remembers(field: &Field, name: &str) -> bool {
    field.metadata().get(TYPE_KEY).is_some_and(|remembered| remembered == name)
}

impl Column {
    /// Whether it is a numeric that holds any number of digits.
    pub(super) fn is_any_number(&self) -> bool {
        Wire::of(self) == Some(Wire::Numeric) && decimal_of(self.typmod).is_none()
    }

    fn digits(&self) -> Option<(i32, i32)> {
        digits_of(self.typmod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_known_types_is_taken_from_metadata() {
        for (name, expected) in [
            ("uuid", Some("uuid")),
            ("numeric(10,2)[]", Some("numeric(10,2)[]")),
            ("bit(3)", Some("bit(3)")),
            ("time with time zone", Some("time with time zone")),
            ("uuid; DROP TABLE t", None),
            ("bit(3); x", None),
            ("bit(3,x)", None),
            ("mood", None),
            ("integer", None),
            ("integer[]", Some("integer[]")),
            ("", None),
        ] {
            assert_eq!(remade(name).map(|(name, _)| name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn numerics_have_the_digits_that_are_declared() {
        for (typmod, expected) in [
            (-1, None),
            (((10 << 16) | 2) + 4, Some((10, 2))),
            ((76 << 16) + 4, Some((76, 0))),
            ((77 << 16) + 4, None),
            // numeric(3,-2) and numeric(2,5)
            (((3 << 16) | 0x7fe) + 4, None),
            (((2 << 16) | 5) + 4, None),
        ] {
            assert_eq!(decimal_of(typmod), expected, "{typmod}");
        }
    }
}
