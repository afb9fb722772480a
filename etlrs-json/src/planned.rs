use arrow_schema::FieldRef;
use etlrs_core::OptionValue;
use serde::{Deserialize, Serialize};

use crate::decode::Reading;

/// How columns were read before, so that single records of them are read once more in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned(pub(crate) Option<PlannedColumns>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedColumns {
    pub(crate) columns: Vec<(FieldRef, Reading)>,
    /// Keys that were known, and that nobody asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unwanted: Vec<String>,
}

impl OptionValue for Planned {
    const KIND: &'static str = "JSON";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text)
            .map(|columns| Self(Some(columns)))
            .map_err(|_| "it must be as a quarantine has it".to_owned())
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |columns| serde_json::to_string(columns).unwrap_or_default())
    }
}
