use arrow_schema::DataType;
use etlrs_core::OptionValue;
use serde::{Deserialize, Serialize};

use crate::decode::TypeBy;
use crate::format::Format;

/// How columns were read before, so that single records of them are read once more in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned(pub(crate) Vec<PlannedColumn>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedColumn {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) data_type: DataType,
    pub(crate) by: TypeBy,
    /// How its dates are spelled if not in ISO 8601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
}

impl Planned {
    pub(crate) fn get(&self, name: &str) -> Option<&PlannedColumn> {
        self.0.iter().find(|column| column.name == name)
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PlannedColumn {
    pub(crate) fn format(&self) -> Option<Format> {
        self.format.as_ref().and_then(|format| Format::parse(format).ok())
    }
}

impl OptionValue for Planned {
    const KIND: &'static str = "JSON";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map(Self).map_err(|_| "it must be as a quarantine has it".to_owned())
    }

    fn show(&self) -> String {
        if self.is_empty() { String::new() } else { serde_json::to_string(&self.0).unwrap_or_default() }
    }
}
