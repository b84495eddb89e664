//! Civil days: what IMAP's SEARCH compares (RFC 9051 §6.4.4).

/// A day of the Gregorian calendar, without time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    pub year: i32,
    /// 1–12.
    pub month: u8,
    /// 1–31.
    pub day: u8,
}

pub(crate) const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

impl Day {
    /// `None` for a day that the calendar does not have.
    pub fn new(year: i32, month: u8, day: u8) -> Option<Self> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            _ => return None,
        };
        (1..=last).contains(&day).then_some(Self { year, month, day })
    }

    /// The month of a three-letter English name, in any case.
    pub fn month_from_name(name: &[u8]) -> Option<u8> {
        let at = MONTHS.iter().position(|m| name.eq_ignore_ascii_case(m.as_bytes()))?;
        u8::try_from(at + 1).ok()
    }

    /// Days since 1970-01-01 (the proleptic Gregorian calendar, by 400-year eras).
    pub fn to_epoch(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        // Years begin in March, so that the leap day is the last.
        let year = i64::from(self.year) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// The inverse of [`Day::to_epoch`]; years beyond ±200,000 are clamped.
    pub fn from_epoch(days: i64) -> Self {
        let days = days.clamp(-73_000_000, 73_000_000) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year + i64::from(month <= 2);
        Self { year: year as i32, month: month as u8, day: day as u8 }
    }
}

/// The day that a `Date:` value names, whatever its time and zone (RFC 9051 §6.4.4, SENTON).
pub fn sent_day(value: &[u8]) -> Option<Day> {
    let mut words = value
        .split(|b| b.is_ascii_whitespace() || matches!(b, b',' | b'-'))
        .filter(|w| !w.is_empty())
        .take(6)
        .skip_while(|w| !w[0].is_ascii_digit());
    let day = number(words.next()?)?;
    let month = Day::month_from_name(words.next()?.get(..3)?)?;
    let year_text = words.next()?;
    let year = number(year_text)?;
    // RFC 5322 §4.3: two and three digits are years of the last century, or of this one.
    let year = match (year_text.len(), year) {
        (2, 0..=49) => year + 2000,
        (2 | 3, _) => year + 1900,
        _ => year,
    };
    Day::new(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?)
}

/// The moment that a `Date:` value names, in milliseconds since 1970 (RFC 5256 §2.2, sent date).
/// A missing or odd time is midnight, a missing or odd zone is UTC.
pub fn sent_time(value: &[u8]) -> Option<i64> {
    let day = sent_day(value)?;
    let mut words = value.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
    let clock = words.by_ref().find(|w| w.contains(&b':')).and_then(clock).unwrap_or(0);
    let zone = words.next().map_or(0, zone);
    Some(day.to_epoch() * 86_400_000 + (clock - zone) * 1000)
}

/// `21:52:25` or `21:52` in seconds.
fn clock(text: &[u8]) -> Option<i64> {
    let mut parts = text.split(|b| *b == b':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().map_or(Some(0), |s| s)?);
    (hour < 24 && minute < 60 && second < 61).then(|| i64::from(hour * 3600 + minute * 60 + second))
}

/// Seconds east of Greenwich; the names are RFC 5322 §4.3's.
fn zone(text: &[u8]) -> i64 {
    let hours = match text.to_ascii_uppercase().as_slice() {
        b"EDT" => -4,
        b"EST" | b"CDT" => -5,
        b"CST" | b"MDT" => -6,
        b"MST" | b"PDT" => -7,
        b"PST" => -8,
        _ => 0,
    };
    let Some((sign, digits)) = text.split_first().filter(|(s, d)| matches!(s, b'+' | b'-') && d.len() == 4) else {
        return hours * 3600;
    };
    let offset = number(digits).map_or(0, |n| i64::from(n / 100 * 3600 + n % 100 * 60));
    if *sign == b'-' { -offset } else { offset }
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    text.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ymd(day: Option<Day>) -> Option<(i32, u8, u8)> {
        day.map(|d| (d.year, d.month, d.day))
    }

    #[test]
    fn days_of_the_date_field() {
        assert_eq!(ymd(sent_day(b"Mon, 7 Feb 1994 21:52:25 -0800 (PST)")), Some((1994, 2, 7)));
        assert_eq!(ymd(sent_day(b"07 feb 94 21:52")), Some((1994, 2, 7)));
        assert_eq!(ymd(sent_day(b"1 January 05")), Some((2005, 1, 1)));
        assert_eq!(ymd(sent_day(b"7-Feb-2020")), Some((2020, 2, 7)));
        for text in ["", "Mon", "30 Feb 2020", "Feb 7 2020", "7 Xyz 2020", "99999999999 Jan 2020"] {
            assert_eq!(sent_day(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn moments_of_the_date_field() {
        assert_eq!(sent_time(b"Mon, 7 Feb 1994 21:52:25 -0800 (PST)"), Some(760_686_745_000));
        assert_eq!(sent_time(b"Mon, 7 Feb 1994 21:52:25 PST"), Some(760_686_745_000));
        assert_eq!(sent_time(b"1 Jan 1970 00:01"), Some(60_000));
        assert_eq!(sent_time(b"1 Jan 1970 99:01 +01x0"), Some(0));
        assert_eq!(sent_time(b"nonsense"), None);
    }

    #[test]
    fn the_calendar() {
        assert_eq!(Day::new(1970, 1, 1).map(Day::to_epoch), Some(0));
        assert_eq!(Day::new(2000, 2, 29).map(Day::to_epoch), Some(11_016));
        assert_eq!(Day::new(1900, 2, 29), None);
        for days in (-1_000_000..1_000_000).step_by(97) {
            assert_eq!(Day::from_epoch(days).to_epoch(), days);
        }
    }
}
