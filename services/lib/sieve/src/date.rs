//! Dates and their parts (RFC 5260).

use message::Day;

/// A moment, and how far its writer was from Greenwich.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Seconds since 1970, UTC.
    pub at: i64,
    /// Minutes east.
    pub zone: i32,
}

/// RFC 5260 §4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatePart {
    Year,
    Month,
    Day,
    Date,
    Julian,
    Hour,
    Minute,
    Second,
    Time,
    Iso8601,
    Std11,
    Zone,
    Weekday,
}

impl DatePart {
    pub fn of(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "year" => Self::Year,
            "month" => Self::Month,
            "day" => Self::Day,
            "date" => Self::Date,
            "julian" => Self::Julian,
            "hour" => Self::Hour,
            "minute" => Self::Minute,
            "second" => Self::Second,
            "time" => Self::Time,
            "iso8601" => Self::Iso8601,
            "std11" => Self::Std11,
            "zone" => Self::Zone,
            "weekday" => Self::Weekday,
            _ => return None,
        })
    }
}

/// `+0100`, `-0800`, and the names of RFC 5322 §4.3.
pub(crate) fn zone_minutes(text: &[u8]) -> Option<i32> {
    let hours = match text.to_ascii_uppercase().as_slice() {
        b"UT" | b"GMT" | b"UTC" | b"Z" => 0,
        b"EDT" => -4,
        b"EST" | b"CDT" => -5,
        b"CST" | b"MDT" => -6,
        b"MST" | b"PDT" => -7,
        b"PST" => -8,
        _ => {
            let (sign, digits) = text.split_first().filter(|(s, d)| matches!(s, b'+' | b'-') && d.len() == 4)?;
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
            let number: i32 = digits.parse().ok()?;
            let minutes = number / 100 * 60 + number % 100;
            return (number % 100 < 60 && minutes < 24 * 60).then_some(if *sign == b'-' { -minutes } else { minutes });
        }
    };
    Some(hours * 60)
}

impl Moment {
    /// The date-time of a field (RFC 5322 §3.3): after the last semicolon, if there is one, as
    /// `Received:` has it (RFC 5260 §4).
    pub fn of_field(value: &str) -> Option<Self> {
        let text = value.rsplit(';').next().unwrap_or(value).as_bytes();
        let at = message::sent_time(text)?.div_euclid(1000);
        let mut words = text.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
        words.by_ref().find(|w| w.contains(&b':'))?;
        Some(Self { at, zone: words.next().and_then(zone_minutes).unwrap_or(0) })
    }

    /// The same moment elsewhere.
    pub fn in_zone(self, zone: i32) -> Self {
        Self { zone, ..self }
    }

    pub fn part(self, part: DatePart) -> String {
        let local = self.at + i64::from(self.zone) * 60;
        let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let day = Day::from_epoch(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let date = format!("{:04}-{:02}-{:02}", day.year, day.month, day.day);
        let time = format!("{hour:02}:{minute:02}:{second:02}");
        let (sign, zone) = (if self.zone < 0 { '-' } else { '+' }, self.zone.abs());
        let weekday = usize::try_from((days + 4).rem_euclid(7)).unwrap_or_default();
        match part {
            DatePart::Year => format!("{:04}", day.year),
            DatePart::Month => format!("{:02}", day.month),
            DatePart::Day => format!("{:02}", day.day),
            DatePart::Date => date,
            // Modified: days since 1858-11-17.
            DatePart::Julian => (days + 40_587).to_string(),
            DatePart::Hour => format!("{hour:02}"),
            DatePart::Minute => format!("{minute:02}"),
            DatePart::Second => format!("{second:02}"),
            DatePart::Time => time,
            DatePart::Iso8601 => format!("{date}T{time}{sign}{:02}:{:02}", zone / 60, zone % 60),
            DatePart::Std11 => {
                let (name, month) = (WEEKDAYS[weekday % 7], MONTHS[usize::from(day.month.clamp(1, 12)) - 1]);
                format!("{name}, {:02} {month} {:04} {time} {sign}{:02}{:02}", day.day, day.year, zone / 60, zone % 60)
            }
            DatePart::Zone => format!("{sign}{:02}{:02}", zone / 60, zone % 60),
            DatePart::Weekday => weekday.to_string(),
        }
    }
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_date() {
        let moment = Moment::of_field("Tue, 21 Feb 2006 21:52:25 -0800 (PST)").expect("a date");
        let parts = [
            (DatePart::Year, "2006"),
            (DatePart::Month, "02"),
            (DatePart::Day, "21"),
            (DatePart::Date, "2006-02-21"),
            (DatePart::Julian, "53787"),
            (DatePart::Time, "21:52:25"),
            (DatePart::Iso8601, "2006-02-21T21:52:25-08:00"),
            (DatePart::Std11, "Tue, 21 Feb 2006 21:52:25 -0800"),
            (DatePart::Zone, "-0800"),
            (DatePart::Weekday, "2"),
        ];
        for (part, expected) in parts {
            assert_eq!(moment.part(part), expected);
        }
        assert_eq!(moment.in_zone(330).part(DatePart::Std11), "Wed, 22 Feb 2006 11:22:25 +0530");
        assert_eq!(moment.in_zone(0).part(DatePart::Hour), "05");
    }

    #[test]
    fn zones_and_received() {
        assert_eq!(zone_minutes(b"+0530"), Some(330));
        assert_eq!(zone_minutes(b"-0030"), Some(-30));
        assert_eq!(zone_minutes(b"PST"), Some(-480));
        for bad in [&b""[..], b"+1", b"+99", b"0100", b"+0160", b"+9900"] {
            assert_eq!(zone_minutes(bad), None);
        }
        let received = "from a by b with ESMTP; Thu, 1 Jan 1970 01:00:00 +0100";
        assert_eq!(Moment::of_field(received), Some(Moment { at: 0, zone: 60 }));
        assert_eq!(Moment::of_field("nonsense"), None);
    }
}
