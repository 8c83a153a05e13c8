//! IncrementalAlterConfigs on lists (KIP-339).

use super::SettingError;
use super::kind::{Kind, Setting};

/// `current` (or the setting's default, where nothing is set) and the items of `added` that are not in it yet.
///
/// Refuses settings that are no list. The result is not checked otherwise: see [`Setting::parse`].
pub fn append_to_list(
    setting: &Setting,
    current: Option<&str>,
    added: &str,
) -> Result<String, SettingError> {
    let mut items = items_of(setting, current, "APPEND")?;
    for item in split(added) {
        if !items.contains(&item) {
            items.push(item);
        }
    }
    Ok(items.join(","))
}

/// `current` (or the setting's default, where nothing is set) without the items of `removed`.
///
/// Refuses settings that are no list.
pub fn subtract_from_list(
    setting: &Setting,
    current: Option<&str>,
    removed: &str,
) -> Result<String, SettingError> {
    let mut items = items_of(setting, current, "SUBTRACT")?;
    let removed: Vec<_> = split(removed).collect();
    items.retain(|item| !removed.contains(item));
    Ok(items.join(","))
}

fn items_of<'a>(
    setting: &Setting,
    current: Option<&'a str>,
    operation: &str,
) -> Result<Vec<&'a str>, SettingError> {
    if setting.kind != Kind::List {
        return Err(SettingError::Conflict(format!(
            "Can't {operation} to key {} because its type is not LIST.",
            setting.name
        )));
    }
    Ok(split(current.or(setting.default).unwrap_or("")).collect())
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::topic_setting;
    use super::*;

    #[test]
    fn lists_grow_and_shrink_from_what_is_set_or_else_the_default() {
        let policy = topic_setting("cleanup.policy").unwrap();
        let append = |current, added| append_to_list(policy, current, added).unwrap();
        assert_eq!(append(None, "compact"), "delete,compact");
        assert_eq!(append(Some("compact"), "compact, delete"), "compact,delete");
        assert_eq!(append(Some(""), "compact"), "compact");
        let subtract = |current, removed| subtract_from_list(policy, current, removed).unwrap();
        assert_eq!(subtract(Some("compact,delete"), "compact"), "delete");
        assert_eq!(subtract(None, "delete"), "");
        assert_eq!(subtract(Some("delete"), "compact"), "delete");
    }

    #[test]
    fn what_is_no_list_cannot_be_appended_to() {
        let bytes = topic_setting("segment.bytes").unwrap();
        let error = append_to_list(bytes, None, "1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Can't APPEND to key segment.bytes because its type is not LIST."
        );
    }
}
