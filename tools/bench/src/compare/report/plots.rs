//! The plots, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;

use super::number;
use crate::compare::judge::Summary;

const SIZE: (u32, u32) = (520, 300);
const FONT: (&str, i32) = ("sans-serif", 16);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 92, 39),
    RGBColor(120, 126, 138),
    RGBColor(44, 140, 90),
    RGBColor(148, 88, 180),
    RGBColor(170, 130, 20),
];

/// The same target has the same colour in every plot.
fn colour(name: &str, at: usize) -> RGBColor {
    match name {
        "ringspun" => COLOURS[0],
        "kafka" => COLOURS[1],
        "floor" => COLOURS[2],
        _ => COLOURS[at % COLOURS.len()],
    }
}

fn drawn<E: std::error::Error + Send + Sync + 'static>(
    error: DrawingAreaErrorKind<E>,
) -> anyhow::Error {
    anyhow!("a plot: {error}")
}

/// A bar a name with the median, and a line from the least to the greatest.
pub fn bars(title: &str, values: &[(String, Summary)]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawn)?;
        let top = values.iter().map(|(_, s)| s.greatest).fold(0.0, f64::max);
        let top = if top > 0.0 { top * 1.15 } else { 1.0 };
        let mut chart = ChartBuilder::on(&area)
            .caption(title, FONT)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..values.len() as f64, 0.0..top)
            .map_err(drawn)?;
        let name = |x: &f64| {
            let at = *x as usize;
            let middle = (x.fract() - 0.5).abs() < 1e-6;
            match values.get(at) {
                Some((name, _)) if middle => name.clone(),
                _ => String::new(),
            }
        };
        chart
            .configure_mesh()
            .max_light_lines(0)
            .disable_x_mesh()
            .x_labels(2 * values.len() + 1)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| number(*y))
            .label_style(FONT)
            .draw()
            .map_err(drawn)?;
        for (at, (name, summary)) in values.iter().enumerate() {
            let (at, x) = (at as f64, colour(name, at));
            let bar = Rectangle::new(
                [(at + 0.2, 0.0), (at + 0.8, summary.median)],
                x.mix(0.75).filled(),
            );
            let ends = [(at + 0.5, summary.least), (at + 0.5, summary.greatest)];
            let spread = PathElement::new(ends.to_vec(), BLACK.stroke_width(2));
            chart.draw_series([bar]).map_err(drawn)?;
            chart.draw_series([spread]).map_err(drawn)?;
            let label = Text::new(
                number(summary.median),
                (at + 0.53, summary.median + top * 0.05),
                FONT,
            );
            chart.draw_series([label]).map_err(drawn)?;
        }
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

type Curves = [(String, Vec<(f64, f64)>)];

/// The least and greatest value of curves, with room; never empty, and above zero for logarithms.
fn reach(curves: &Curves) -> (f64, f64) {
    let values = || {
        curves
            .iter()
            .flat_map(|(_, points)| points.iter().map(|(_, y)| y.max(1.0)))
    };
    let least = values().fold(f64::INFINITY, f64::min);
    let greatest = values().fold(1.0, f64::max);
    (least.min(greatest) * 0.8, greatest * 1.3)
}

/// Nines on the x axis: 50 % lies at 0.3, 99.9 % at 3.
fn nines(part: f64) -> f64 {
    -(1.0 - part).log10()
}

/// Latency over the part of the records that were faster.
pub fn percentiles(title: &str, curves: &Curves) -> Result<String> {
    let curves: Vec<(String, Vec<(f64, f64)>)> = curves
        .iter()
        .map(|(name, points)| {
            (
                name.clone(),
                points.iter().map(|(x, y)| (nines(*x), *y)).collect(),
            )
        })
        .collect();
    let label = |x: &f64| {
        if *x < 0.5 {
            "50 %".to_owned()
        } else {
            let below = 100.0 * (1.0 - 10f64.powf(-x));
            format!("{} %", (below * 1e4).round() / 1e4)
        }
    };
    lines(title, &curves, Nines(0.25, 4.1), &label)
}

/// The x axis of [`percentiles`], marked where people look.
struct Nines(f64, f64);

impl Ranged for Nines {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.0) / (self.1 - self.0);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        vec![nines(0.5), 1.0, 2.0, 3.0, 4.0]
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Nines {}

/// A value over the seconds of a round.
pub fn over_time(title: &str, curves: &Curves) -> Result<String> {
    let last = curves
        .iter()
        .flat_map(|(_, points)| points.iter().map(|(x, _)| *x));
    let last = last.fold(1.0, f64::max);
    let range: plotters::coord::types::RangedCoordf64 = (0.0..last).into();
    lines(title, curves, range, &|x| format!("{x:.0} s"))
}

fn lines<X>(title: &str, curves: &Curves, x: X, x_label: &dyn Fn(&f64) -> String) -> Result<String>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawn)?;
        let (least, greatest) = reach(curves);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, FONT)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(64)
            .build_cartesian_2d(x, (least..greatest).log_scale())
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y| number(*y))
            .label_style(FONT)
            .draw()
            .map_err(drawn)?;
        for (at, (name, points)) in curves.iter().enumerate() {
            let of = colour(name, at);
            let points: Vec<(f64, f64)> = points.iter().map(|(x, y)| (*x, y.max(1.0))).collect();
            chart
                .draw_series(LineSeries::new(points, of.stroke_width(2)))
                .map_err(drawn)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], of.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(FONT)
            .draw()
            .map_err(drawn)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}
