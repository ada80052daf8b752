//! Line plots as inline SVG that follows the page's colours, light or dark.
//!
//! Knows points, names and axes, not what they mean. Called by the HTML pages.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// The width and height of a plot, in its own pixels.
const SIZE: (u32, u32) = (600, 320);
/// Stand-ins that become the page's colours.
const TEXT: RGBColor = RGBColor(1, 2, 3);
const LINE: RGBColor = RGBColor(4, 5, 6);
/// Legible on white and on black.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2f, 0x7e, 0xdb),
    RGBColor(0xd6, 0x4f, 0x4f),
    RGBColor(0x2b, 0xa0, 0x6b),
    RGBColor(0xcf, 0x8a, 0x12),
    RGBColor(0x91, 0x66, 0xcc),
    RGBColor(0x12, 0x9a, 0xa5),
    RGBColor(0xd2, 0x66, 0x9e),
    RGBColor(0x80, 0x8b, 0x9d),
];

/// The colour of the series at `place`, as CSS has it.
pub fn colour(place: usize) -> String {
    let RGBColor(red, green, blue) = COLOURS[place % COLOURS.len()];
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// One line of a plot.
pub struct Series {
    /// Which colour it has: that of its server on the whole page.
    pub place: usize,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// What stands along an axis.
pub struct Axis<'a> {
    /// Its title.
    pub title: &'a str,
    /// Its ticks.
    pub label: &'a dyn Fn(f64) -> String,
    /// Each step of the same length is the same factor.
    pub logarithmic: bool,
}

/// A number as short as it can be: 1.5 k, 20 M.
pub fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        n if n >= 1e9 => (number / 1e9, " G"),
        n if n >= 1e6 => (number / 1e6, " M"),
        n if n >= 1e3 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let text =
        if value.abs() >= 10.0 || value.fract().abs() < 0.05 { format!("{value:.0}") } else { format!("{value:.1}") };
    text + unit
}

/// Microseconds for people.
pub fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", short(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", short(us / 1e3)),
        us => format!("{} µs", short(us)),
    }
}

/// Draws `series`; none if there is no point. With `steps` the horizontal axis has that many whole ones.
pub fn lines(series: &[Series], x: &Axis<'_>, y: &Axis<'_>, steps: Option<usize>) -> Result<Option<String>> {
    let points = || series.iter().flat_map(|series| &series.points);
    let Some(mut across) = range(points().map(|point| point.0)) else {
        return Ok(None);
    };
    let Some(up) = range(points().map(|point| point.1)) else {
        return Ok(None);
    };
    if across.start == across.end {
        across = across.start - 1.0..across.end + 1.0;
    }
    if let Some(steps) = steps {
        across = -0.15..(steps.max(2) - 1) as f64 + 0.15;
    }
    // Whole powers of ten, so that there are always two ticks.
    let power = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.max(0.1).log10()));
    let floor = power(up.start, f64::floor);
    let rising = floor..power(up.end, f64::ceil).max(floor * 10.0) * 1.01;
    let flat = 0.0..(up.end * 1.08).max(1e-9);
    let mut svg = String::new();
    match (x.logarithmic, y.logarithmic) {
        (false, false) => draw(&mut svg, series, across, flat, x, y, steps)?,
        (false, true) => draw(&mut svg, series, across, rising.log_scale(), x, y, steps)?,
        (true, false) => draw(&mut svg, series, wider(&across).log_scale(), flat, x, y, steps)?,
        (true, true) => draw(&mut svg, series, wider(&across).log_scale(), rising.log_scale(), x, y, steps)?,
    }
    let text = format!("#{:02X}{:02X}{:02X}", TEXT.0, TEXT.1, TEXT.2);
    let line = format!("#{:02X}{:02X}{:02X}", LINE.0, LINE.1, LINE.2);
    Ok(Some(svg.replace(&text, "currentColor").replace(&line, "var(--line)")))
}

fn wider(range: &Range<f64>) -> Range<f64> {
    range.start.max(0.1) / 1.2..range.end * 1.2
}

fn range(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |range: Option<Range<f64>>, value| {
        let range = range.unwrap_or(value..value);
        Some(range.start.min(value)..range.end.max(value))
    })
}

fn draw<X, Y>(
    svg: &mut String,
    series: &[Series],
    across: X,
    up: Y,
    x: &Axis<'_>,
    y: &Axis<'_>,
    steps: Option<usize>,
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let failed = |error: &dyn std::fmt::Display| anyhow!("a plot can't be drawn: {error}");
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(74)
        .build_cartesian_2d(across, up)
        .map_err(|error| failed(&error))?;
    let text = ("sans-serif", 16).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc(x.title)
        .y_desc(y.title)
        .x_labels(steps.map_or(6, |steps| steps.max(2)))
        .y_labels(6)
        .x_label_formatter(&|value| (x.label)(*value))
        .y_label_formatter(&|value| (y.label)(*value))
        .draw()
        .map_err(|error| failed(&error))?;
    for each in series {
        let colour = COLOURS[each.place % COLOURS.len()];
        let line = LineSeries::new(each.points.iter().copied(), colour.stroke_width(2));
        chart.draw_series(line).map_err(|error| failed(&error))?;
        if each.points.len() <= 12 {
            let dots = each.points.iter().map(|point| Circle::new(*point, 4, colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
        }
    }
    area.present().map_err(|error| failed(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let pairs = [(0.0, "0"), (12.0, "12"), (1_500.0, "1.5 k"), (2e6, "2 M"), (0.5, "0.5"), (12_345.0, "12 k")];
        for (number, text) in pairs {
            assert_eq!(short(number), text);
        }
        assert_eq!((time(12.0), time(1_500.0), time(2e6)), ("12 µs".into(), "1.5 ms".into(), "2 s".into()));
    }

    #[test]
    fn a_plot_takes_the_colours_of_the_page() {
        let plain = Axis { title: "x", label: &short, logarithmic: false };
        for logarithmic in [false, true] {
            let y = Axis { title: "y", label: &time, logarithmic };
            let series = [Series { place: 1, points: vec![(1.0, 10.0), (2.0, 1_000.0)] }];
            let svg = lines(&series, &plain, &y, None).unwrap().unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("currentColor") && svg.contains("var(--line)"));
            assert!(svg.to_lowercase().contains(&colour(1)));
        }
        assert!(lines(&[], &plain, &plain, None).unwrap().is_none());
    }
}
