//! Guidance of rising scale, by a classifier and without one: how many of 1000 samples are of the class that was asked for, by their
//! five nearest neighbors, and how varied they are within their class, against the data; and the curves in a picture.
//!
//! `stein train experiments/digits/edm-unconditional.toml`, the same of `noisy-classifier` and `edm-guided`, then
//! `cargo run --release --example guidance_sweep -- runs/edm-unconditional runs/noisy-classifier runs/edm-guided guidance.png`

use std::path::Path;

use stein::{
    AnyWrapper, Device, Error, Result,
    guidance::{ClassifierFree, ClassifierGuidance},
};
use stein_data::{Data, Split};
use stein_metrics::{Agreement, Batch, Session, Side, Spread};
use stein_run::{
    Classes, Model, RunDir, SampleConfig, Silent, draw,
    picture::{Frame, Series, line_chart, write_png},
};

const SAMPLES: usize = 1000;
const BY_CLASSIFIER: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
const CLASSIFIER_FREE: [f64; 8] = [0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [free, classifier, told, picture] = &arguments[..] else {
        return Err(Error::new(
            "give a run without classes, one of its classifier, one with classes, and a picture to write",
        ));
    };
    let device = Device::flex();
    let data = RunDir::open(Path::new(told))?.experiment()?.data.load(Split::Train, None)?;
    let (free, told) = (Model::open(free, &device)?, Model::open(told, &device)?);
    let steer = |scale: f64| {
        ClassifierGuidance { model: classifier.clone(), scale: scale.into(), ..ClassifierGuidance::default() }.into()
    };
    let series = [
        curve("by a classifier", &free, &BY_CLASSIFIER, &steer, &data)?,
        curve(
            "classifier-free",
            &told,
            &CLASSIFIER_FREE,
            &|scale| ClassifierFree { scale: scale.into() }.into(),
            &data,
        )?,
    ];
    let frame = Frame {
        title: "guidance of rising scale, from right to left",
        x: "spread within a class, data = 1",
        y: "samples of the class asked for",
        size: (800, 600),
    };
    write_png(picture, &line_chart(&series, &frame, false, None)?.picture()?)
}

/// Spread and agreement of each scale.
fn curve(
    name: &str,
    model: &Model,
    scales: &[f64],
    wrapper: &dyn Fn(f64) -> AnyWrapper,
    data: &Data,
) -> Result<Series> {
    let mut points = Vec::new();
    for &scale in scales {
        let config = SampleConfig { wrap: vec![wrapper(scale)], ..model.sample.clone() };
        let drawn = draw(model, SAMPLES, 1, &Classes::All, &config, &mut Silent)?;
        let (samples, classes) = (drawn.values, drawn.labels.expect("samples of all classes have labels"));
        let labels = data.labels.iter().flatten().map(|&label| label as u32).collect::<Vec<_>>();
        let mut session = Session::new(&[Agreement::default().into(), Spread::default().into()], data.dim())?;
        session.update(Side::Reference, Batch::from(&data.all_rows()?).labeled(&labels))?;
        session.update(Side::Samples, Batch::from(&samples).labeled(&classes))?;
        let measured = session.finish().into_iter().collect::<Result<Vec<_>>>()?;
        let (agreement, spread) = (measured[0].value, measured[1].value);
        println!("{name}, scale {scale}: agreement {agreement:.3}, spread {spread:.3}");
        points.push((spread, agreement));
    }
    Ok(Series { name: name.to_owned(), points, faint: false })
}
