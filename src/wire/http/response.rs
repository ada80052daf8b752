//! The head of a response, written straight into the caller's buffer: status line, headers, Date. Nothing is allocated
//! per header. The caller appends the body.

/// What the client is told before it sends a body that it asked leave for (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One response's head that is being written.
#[derive(Debug)]
pub struct ResponseHead<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> ResponseHead<'o> {
    /// Writes the status line. A response to HTTP/1.0 says HTTP/1.0.
    pub fn begin(out: &'o mut Vec<u8>, status: u16, is_http_1_0: bool) -> Self {
        out.extend_from_slice(if is_http_1_0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(status_text(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// Writes a header. Neither name nor value may have a line end.
    pub fn header(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    /// Writes whole header lines that were made before, each with its line end.
    pub fn lines(&mut self, lines: &[u8]) {
        self.out.extend_from_slice(lines);
    }

    /// Writes the Content-Length header.
    pub fn content_length(&mut self, length: usize) {
        self.out.extend_from_slice(b"Content-Length: ");
        write_decimal(self.out, length as u64);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Ends the head, and returns the buffer for the body.
    pub fn end(self) -> &'o mut Vec<u8> {
        self.out.extend_from_slice(b"\r\n");
        self.out
    }
}

/// The code and the reason of a status line.
fn status_text(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        204 => "204 No Content",
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        408 => "408 Request Timeout",
        409 => "409 Conflict",
        413 => "413 Content Too Large",
        415 => "415 Unsupported Media Type",
        417 => "417 Expectation Failed",
        431 => "431 Request Header Fields Too Large",
        500 => "500 Internal Server Error",
        501 => "501 Not Implemented",
        503 => "503 Service Unavailable",
        504 => "504 Gateway Timeout",
        507 => "507 Insufficient Storage",
        status => unreachable!("no response has status {status}"),
    }
}

/// Appends a number in decimal.
pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The line of the Date header (RFC 9110 §6.6.1), made once a second.
#[derive(Debug, Default)]
pub struct DateLine {
    /// The second that `line` was made for, since 1970.
    second: u64,
    line: Vec<u8>,
}

impl DateLine {
    /// The line for a moment in Unix milliseconds.
    pub fn at(&mut self, unix_ms: u64) -> &[u8] {
        let second = unix_ms / 1_000;
        if self.second != second || self.line.is_empty() {
            self.second = second;
            self.line.clear();
            self.line.extend_from_slice(format!("Date: {}\r\n", imf_date(second)).as_bytes());
        }
        &self.line
    }
}

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn imf_date(unix_s: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Counted from 1 March of year 0, so that the leap day is the last day of a year.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let (hours, minutes, seconds) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{weekday}, {of_month:02} {month} {year:04} {hours:02}:{minutes:02}:{seconds:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_lines() {
        let mut out = b"before".to_vec();
        let mut head = ResponseHead::begin(&mut out, 200, false);
        head.header("Content-Type", "application/json");
        head.content_length(0);
        head.end().push(b'x');
        let expected = "beforeHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\nx";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        ResponseHead::begin(&mut out, 503, true).end();
        assert_eq!(out, b"HTTP/1.0 503 Service Unavailable\r\n\r\n");
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 99, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_795_690_800, "Thu, 26 Nov 2026 11:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(imf_date(second), date);
        }
        let mut line = DateLine::default();
        assert_eq!(line.at(784_111_777_999), b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(line.at(784_111_778_000), b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
        assert_eq!(DateLine::default().at(0), b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
    }
}
