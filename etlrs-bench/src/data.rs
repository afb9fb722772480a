//! Tables as CSV, the same each time.

use std::fmt::Write;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// What the values of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers of one to four digits.
    SmallInt,
    /// Integers of up to 19 digits, some negative.
    LargeInt,
    /// Small integers, a fifth of them null.
    NullableInt,
    /// Numbers with two digits behind the point.
    ShortFloat,
    /// Numbers with all digits that a float has.
    LongFloat,
    /// Amounts of money.
    Decimal,
    /// Days of the last decades.
    Date,
    /// Times of these days, to the second.
    Timestamp,
    /// `true` and `false`.
    Bool,
    /// Words of 3 to 12 letters.
    ShortText,
    /// Sentences of 100 to 300 letters.
    LongText,
    /// Text in quotes with delimiters in it, and now and then a doubled quote.
    QuotedText,
    /// One of seven words.
    Category,
    /// The sixteen columns of the table `lineitem` of the benchmark TPC-H.
    Lineitem,
}

impl Kind {
    /// In the order of reports.
    pub const ALL: [Self; 14] = [
        Self::SmallInt,
        Self::LargeInt,
        Self::NullableInt,
        Self::ShortFloat,
        Self::LongFloat,
        Self::Decimal,
        Self::Date,
        Self::Timestamp,
        Self::Bool,
        Self::ShortText,
        Self::LongText,
        Self::QuotedText,
        Self::Category,
        Self::Lineitem,
    ];

    /// As benchmarks call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallInt => "int64_small",
            Self::LargeInt => "int64_large",
            Self::NullableInt => "int64_nulls",
            Self::ShortFloat => "float64_short",
            Self::LongFloat => "float64_long",
            Self::Decimal => "decimal",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Bool => "bool",
            Self::ShortText => "text_short",
            Self::LongText => "text_long",
            Self::QuotedText => "text_quoted",
            Self::Category => "text_category",
            Self::Lineitem => "lineitem",
        }
    }

    /// The types of a table's columns.
    fn types(self) -> Vec<DataType> {
        let one = match self {
            Self::SmallInt | Self::LargeInt | Self::NullableInt => DataType::Int64,
            Self::ShortFloat | Self::LongFloat => DataType::Float64,
            Self::Decimal => DataType::Decimal128(15, 2),
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Bool => DataType::Boolean,
            Self::ShortText | Self::LongText | Self::QuotedText | Self::Category => DataType::Utf8,
            Self::Lineitem => return LINEITEM.iter().flat_map(|(kind, _)| kind.types().into_iter().take(1)).collect(),
        };
        vec![one; 4]
    }

    fn write(self, random: &mut Random, text: &mut String) {
        const WORDS: [&str; 7] = ["TRUCK", "MAIL", "SHIP", "AIR", "RAIL", "REG AIR", "FOB"];
        match self {
            Self::SmallInt => put(text, random.below(10_000)),
            Self::LargeInt => put(text, random.next().cast_signed()),
            Self::NullableInt => {
                if random.below(5) > 0 {
                    put(text, random.below(10_000));
                }
            }
            Self::ShortFloat | Self::Decimal => {
                let cents = random.below(10_000_000);
                put(text, format_args!("{}.{:02}", cents / 100, cents % 100));
            }
            Self::LongFloat => put(text, random.below(1 << 53) as f64 / (1u64 << 53) as f64),
            Self::Date => random.date(text),
            Self::Timestamp => {
                random.date(text);
                let second = random.below(86_400);
                put(text, format_args!("T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60));
            }
            Self::Bool => text.push_str(if random.below(2) == 0 { "true" } else { "false" }),
            Self::ShortText => random.letters(text, 3, 12),
            Self::LongText => random.sentence(text, 100, 300),
            Self::QuotedText => {
                text.push('"');
                random.sentence(text, 5, 20);
                text.push_str(if random.below(8) == 0 { ", \"\"" } else { ", " });
                random.sentence(text, 5, 20);
                text.push('"');
            }
            Self::Category => text.push_str(WORDS[random.below(7) as usize]),
            Self::Lineitem => {}
        }
    }
}

/// Kind and name of its columns; the values of one kind are like those of the benchmark, not the same.
const LINEITEM: [(Kind, &str); 16] = [
    (Kind::SmallInt, "l_orderkey"),
    (Kind::SmallInt, "l_partkey"),
    (Kind::SmallInt, "l_suppkey"),
    (Kind::SmallInt, "l_linenumber"),
    (Kind::Decimal, "l_quantity"),
    (Kind::Decimal, "l_extendedprice"),
    (Kind::Decimal, "l_discount"),
    (Kind::Decimal, "l_tax"),
    (Kind::Category, "l_returnflag"),
    (Kind::Category, "l_linestatus"),
    (Kind::Date, "l_shipdate"),
    (Kind::Date, "l_commitdate"),
    (Kind::Date, "l_receiptdate"),
    (Kind::Category, "l_shipinstruct"),
    (Kind::Category, "l_shipmode"),
    (Kind::ShortText, "l_comment"),
];

/// The columns of a table of this kind.
pub fn schema(kind: Kind) -> SchemaRef {
    let name = |column: usize| match kind {
        Kind::Lineitem => LINEITEM[column].1.to_owned(),
        _ => format!("c{column}"),
    };
    let fields =
        kind.types().into_iter().enumerate().map(|(column, data_type)| Field::new(name(column), data_type, true));
    Schema::new(fields.collect::<Vec<_>>()).into()
}

/// A table of this kind with a header, of `bytes` or a little more.
pub fn csv(kind: Kind, bytes: usize) -> String {
    csv_until(kind, |_, length| length >= bytes)
}

/// A table of this kind with a header and `rows` rows.
pub fn csv_of_rows(kind: Kind, rows: usize) -> String {
    csv_until(kind, |row, _| row >= rows as u64)
}

/// Rows until `is_done` of their number and of the length of the text.
fn csv_until(kind: Kind, is_done: impl Fn(u64, usize) -> bool) -> String {
    let mut random = Random(17);
    let schema = schema(kind);
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut text = names.join(",") + "\n";
    let mut row: u64 = 0;
    while !is_done(row, text.len()) {
        match kind {
            Kind::Lineitem => random.lineitem(row, &mut text),
            _ => {
                for column in 0..names.len() {
                    if column > 0 {
                        text.push(',');
                    }
                    kind.write(&mut random, &mut text);
                }
            }
        }
        text.push('\n');
        row += 1;
    }
    text
}

fn put(text: &mut String, value: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(text, "{value}");
}

/// Numbers that look random: Sebastiano Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn letters(&mut self, text: &mut String, least: u64, most: u64) {
        for _ in 0..least + self.below(most - least + 1) {
            text.push(char::from(b'a' + (self.below(26) as u8)));
        }
    }

    fn sentence(&mut self, text: &mut String, least: usize, most: usize) {
        let end = text.len() + least + self.below((most - least) as u64) as usize;
        while text.len() < end {
            self.letters(text, 2, 9);
            text.push(' ');
        }
        text.pop();
    }

    fn date(&mut self, text: &mut String) {
        let (year, month, day) = (1992 + self.below(32), 1 + self.below(12), 1 + self.below(28));
        put(text, format_args!("{year}-{month:02}-{day:02}"));
    }

    fn lineitem(&mut self, row: u64, text: &mut String) {
        const INSTRUCTIONS: [&str; 4] = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"];
        let cents = 90_000 + self.below(10_000_000);
        let numbers = (1 + row / 4 * 8, 1 + self.below(200_000), 1 + self.below(10_000), 1 + row % 4);
        put(text, format_args!("{},{},{},{},", numbers.0, numbers.1, numbers.2, numbers.3));
        put(text, format_args!("{}.00,{}.{:02},", 1 + self.below(50), cents / 100, cents % 100));
        put(text, format_args!("0.{:02},0.{:02},", self.below(11), self.below(9)));
        text.push_str(["A,F,", "N,O,", "R,F,"][self.below(3) as usize]);
        for _ in 0..3 {
            self.date(text);
            text.push(',');
        }
        text.push_str(INSTRUCTIONS[self.below(4) as usize]);
        text.push(',');
        Kind::Category.write(self, text);
        text.push(',');
        self.sentence(text, 10, 40);
    }
}
