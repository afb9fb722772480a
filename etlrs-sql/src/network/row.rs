use super::{Answer, Failure};

/// A row of text, as a catalogue gives it.
pub(crate) struct Row(Vec<Option<String>>);

impl Row {
    pub(crate) fn new(values: Vec<Option<String>>) -> Self {
        Self(values)
    }

    /// The value of a column, which the query has cast to what it is wanted as.
    pub(crate) fn get<'a, T: FromText<'a>, R>(&'a self, index: usize) -> Answer<T, R> {
        let value = self.0.get(index).and_then(Option::as_deref);
        T::from_text(value).ok_or(Failure::Protocol("a column of the catalogue is not as it should be"))
    }
}

/// What a value of a catalogue is wanted as.
pub(crate) trait FromText<'a>: Sized {
    fn from_text(text: Option<&'a str>) -> Option<Self>;
}

impl<'a> FromText<'a> for &'a str {
    fn from_text(text: Option<&'a str>) -> Option<Self> {
        text
    }
}

impl FromText<'_> for String {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text.map(str::to_owned)
    }
}

impl FromText<'_> for bool {
    fn from_text(text: Option<&str>) -> Option<Self> {
        // As PostgreSQL and as MySQL write it.
        text.map(|text| matches!(text, "t" | "1"))
    }
}

impl FromText<'_> for u64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl FromText<'_> for i64 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl FromText<'_> for i32 {
    fn from_text(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl<'a, T: FromText<'a>> FromText<'a> for Option<T> {
    fn from_text(text: Option<&'a str>) -> Option<Self> {
        match text {
            Some(_) => T::from_text(text).map(Some),
            None => Some(None),
        }
    }
}
