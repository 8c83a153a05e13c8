//! What a topic may be called.

/// Longest name: a folder `NAME-PARTITION`, and what is appended when it is deleted, must fit a file
/// name of 255 bytes.
const MAX_NAME_BYTES: usize = 249;

/// The log of Kafka's own controllers: a folder of this name is left alone, so no topic may have it.
pub const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";

/// Why `name` can be no topic's, in Kafka's words. The code for it is INVALID_TOPIC_EXCEPTION, on
/// auto-creation too.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    let reason = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_NAME_BYTES {
        format!("the length of '{name}' is longer than the max allowed length {MAX_NAME_BYTES}")
    } else if !name
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
    {
        format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(format!("Topic name is invalid: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_legal_characters_and_fits_a_folder() {
        for good in [
            "a",
            "A-b_c.9",
            "...",
            "__consumer_offsets",
            &"x".repeat(249),
        ] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad:?}");
        }
    }
}
