//! Values of a JSON config.

use serde_json::Value as Json;
use stein::{Error, Result};

/// The text under a key.
pub(super) fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// A number of a config, given as `section.key` or `key`; `or` where it is left out.
pub(super) fn number(json: &Json, path: &str, or: f64) -> Result<f64> {
    let value = path.split('.').try_fold(json, |json, key| json.get(key));
    match value {
        None | Some(Json::Null) => Ok(or),
        Some(value) => {
            value.as_f64().ok_or_else(|| Error::new(format!("the config's {path} is {value}: expected a number")))
        }
    }
}

/// A whole number above 0.
pub(super) fn size(json: &Json, path: &str) -> Result<usize> {
    let value = number(json, path, 0.0)?;
    if value < 1.0 || value.fract() != 0.0 {
        return Err(Error::new(format!("the config lacks {path}, or it is no whole number above 0")));
    }
    Ok(value as usize)
}

/// A switch, given as `section.key` or `key`; `or` where it is left out.
pub(super) fn flag(json: &Json, path: &str, or: bool) -> bool {
    path.split('.').try_fold(json, |json, key| json.get(key)).and_then(Json::as_bool).unwrap_or(or)
}
