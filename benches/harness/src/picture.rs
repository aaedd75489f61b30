//! The picture: CPU a check of each client, a bar each, with the quartiles and a line at wrk.

use std::path::Path;

use plotters::prelude::*;

use crate::Fallible;
use crate::report::Report;
use crate::rounds::{Group, Series, Spread};

const WIDTH: u32 = 900;
const BAR: i32 = 26;
const LEFT: i32 = 300;
const RIGHT: i32 = 130;
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const PEER: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);

pub fn draw(report: &Report, path: &Path) -> Fallible<()> {
    let bars: usize = report.groups.iter().map(|group| shown(group).count()).sum();
    let height = bars as i32 * BAR + report.groups.len() as i32 * 2 * BAR + BAR;
    let root = SVGBackend::new(path, (WIDTH, height.cast_unsigned())).into_drawing_area();
    root.fill(&WHITE)?;
    let mut top = BAR / 2;
    for group in &report.groups {
        let title = format!("CPU a check in microseconds, 64 in flight, {}", group.server);
        root.draw(&Text::new(title, (16, top), ("sans-serif", 17)))?;
        top += BAR + BAR / 3;
        let most = shown(group).map(|(_, cpu)| cpu.high).fold(0.0, f64::max);
        let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / most.max(f64::MIN_POSITIVE);
        let x = |value: f64| LEFT + (value * scale) as i32;
        let begin = top;
        for (series, cpu) in shown(group) {
            let color = if series.label.starts_with("alta-auth") { OURS } else { PEER };
            let bar = [(LEFT, top), (x(cpu.median), top + BAR - 8)];
            root.draw(&Rectangle::new(bar, color.filled()))?;
            let middle = top + (BAR - 8) / 2;
            root.draw(&PathElement::new([(x(cpu.low), middle), (x(cpu.high), middle)], BLACK))?;
            root.draw(&Text::new(series.label.clone(), (16, top + 3), ("sans-serif", 14)))?;
            let ratio = group
                .ratio(&series.id, "wrk")
                .map_or(String::new(), |all| format!("  ({:.2} x wrk)", all.median));
            let text = format!("{:.2}{ratio}", cpu.median);
            root.draw(&Text::new(text, (x(cpu.high.max(cpu.median)) + 8, top + 3), ("sans-serif", 13)))?;
            top += BAR;
        }
        if let Some((_, wrk)) = shown(group).find(|(series, _)| series.id == "wrk") {
            root.draw(&PathElement::new([(x(wrk.median), begin - 4), (x(wrk.median), top)], RED))?;
        }
        top += BAR / 2;
    }
    root.present()?;
    Ok(())
}

fn shown(group: &Group) -> impl Iterator<Item = (&Series, Spread)> {
    group.series.iter().filter_map(|series| Some((series, series.of(|sample| sample.cpu_us)?)))
}
