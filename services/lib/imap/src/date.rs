//! Dates in commands and responses (RFC 9051 §9, date and date-time).

use message::Day;

use crate::cursor::{Cursor, Result};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_MS: i64 = 86_400_000;

/// INTERNALDATE without its quotes, in UTC: `17-Jul-1996 02:44:25 +0000`.
pub fn internal_date(ms: i64) -> String {
    let day = Day::from_epoch(ms.div_euclid(DAY_MS));
    let seconds = ms.rem_euclid(DAY_MS) / 1000;
    let month = usize::from(day.month).checked_sub(1).and_then(|m| MONTHS.get(m)).copied().unwrap_or("Jan");
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{:02}-{month}-{:04} {hour:02}:{minute:02}:{second:02} +0000", day.day, day.year)
}

/// The day of an INTERNALDATE, as SEARCH compares it.
pub(crate) fn day_of(ms: i64) -> Day {
    Day::from_epoch(ms.div_euclid(DAY_MS))
}

/// ` 7-Feb-1994 21:52:25 -0800` in milliseconds since 1970; `None` when it is no date-time.
pub fn parse_internal_date(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.trim_start_matches(' ');
    let (date, rest) = text.split_once(' ')?;
    let (time, zone) = rest.split_once(' ')?;
    let day = parse_day(date)?;
    let mut parts = time.split(':').map(|p| digits(p, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (sign, offset) = match zone.split_at_checked(1)? {
        ("+", offset) => (1, digits(offset, 4)?),
        ("-", offset) => (-1, digits(offset, 4)?),
        _ => return None,
    };
    let offset = sign * (offset / 100 * 60 + offset % 100);
    Some(day.to_epoch() * DAY_MS + (hour * 3600 + minute * 60 + second - offset * 60) * 1000)
}

/// `7-Feb-1994`.
fn parse_day(text: &str) -> Option<Day> {
    let mut parts = text.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || month.len() != 3 || !(1..=2).contains(&day.len()) {
        return None;
    }
    let month = Day::month_from_name(month.as_bytes())?;
    Day::new(i32::try_from(digits(year, 4)?).ok()?, month, u8::try_from(digits(day, day.len())?).ok()?)
}

fn digits(text: &str, len: usize) -> Option<i64> {
    (text.len() == len && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A date with or without quotes.
pub(crate) fn date(cursor: &mut Cursor<'_>) -> Result<Day> {
    let text = cursor.astring()?;
    std::str::from_utf8(&text).ok().and_then(parse_day).ok_or("date expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_round_trip() {
        assert_eq!(internal_date(0), "01-Jan-1970 00:00:00 +0000");
        assert_eq!(parse_internal_date(b"17-Jul-1996 02:44:25 -0700"), Some(837_596_665_000));
        assert_eq!(internal_date(837_596_665_999), "17-Jul-1996 09:44:25 +0000");
        assert_eq!(parse_internal_date(b" 1-Jan-1970 01:00:00 +0100"), Some(0));
        for ms in [-1000, 951_782_400_000, 4_102_444_799_000] {
            assert_eq!(parse_internal_date(internal_date(ms).as_bytes()), Some(ms));
        }
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "",
            "17-Jul-1996",
            "17-Jul-1996 02:44:25",
            "32-Jan-2000 00:00:00 +0000",
            "1-Xxx-2000 00:00:00 +0000",
            "1-Jan-2000 24:00:00 +0000",
            "1-Jan-2000 00:00:00 0000",
            "1-Jan-2000 00:00:00 +00é",
            "é-Jan-2000 00:00:00 +0000",
        ] {
            assert_eq!(parse_internal_date(text.as_bytes()), None, "{text}");
        }
    }
}
