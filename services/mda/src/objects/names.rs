//! Names of objects: in the order of their time, and telling the row that names them.

use sqlx::types::Uuid;

/// Digits of the folder: some four and a half hours of mail are in one.
const FOLDER: usize = 6;

/// A name of its own for each attempt to write: what an attempt left behind is nobody else's.
pub fn new(content: Uuid) -> String {
    name(Uuid::now_v7(), content)
}

fn name(attempt: Uuid, content: Uuid) -> String {
    let attempt = attempt.hyphenated().to_string();
    format!("{}/{attempt}.{}", attempt.get(..FOLDER).unwrap_or_default(), content.simple())
}

/// The content it belongs to, unless it is no name of ours.
pub fn content(name_of: &str) -> Option<Uuid> {
    let (_, rest) = name_of.split_once('/')?;
    let (attempt, content) = rest.split_once('.')?;
    let (attempt, content) = (attempt.parse().ok()?, content.parse().ok()?);
    (name(attempt, content) == name_of).then_some(content)
}

/// Sorts after all names of before `milliseconds` since 1970, and before all later ones.
pub fn before(milliseconds: i64) -> String {
    let digits = format!("{:012x}", milliseconds.max(0));
    let (high, low) = digits.split_at(8);
    format!("{}/{high}-{low}", &digits[..FOLDER])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_time_and_tell_their_content() {
        let content_id = Uuid::now_v7();
        let first = new(content_id);
        assert_eq!(content(&first), Some(content_id));
        for strange in ["installation", "a/b.c", "", "019a00/x", &format!("{first}x"), &first.to_uppercase()] {
            assert_eq!(content(strange), None, "{strange}");
        }
        let attempt: Uuid = first[FOLDER + 1..].split_once('.').expect("two ids").0.parse().expect("an id");
        let (seconds, nanos) = attempt.get_timestamp().expect("version 7").to_unix();
        let at = i64::try_from(seconds).expect("now") * 1_000 + i64::from(nanos / 1_000_000);
        assert!(before(at) < first && first < before(at + 1), "{} {first} {}", before(at), before(at + 1));
        assert!(before(at) > name(Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000), content_id));
        assert!("installation" > before(i64::MAX >> 15).as_str(), "what is no object comes last");
    }
}
