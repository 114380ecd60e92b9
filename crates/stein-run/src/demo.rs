//! The demonstration: train a class-conditional EDM model on the built-in digits, sample it, measure the samples, and leave
//! pictures and a report.

use std::{fs, path::PathBuf};

use serde_json::Map;
use stein::{Error, Kind, Result, ensure};
use stein_base::files::write_atomically;
use stein_data::{Data, Source, Split};
use stein_metrics::{Agreement, AnyMetric, Batch, Measured, Novelty, Session, Side, Spread};

use crate::{
    Classes, Experiment, Model, RunDir, SampleConfig, Start, Summary, TrainOptions, Trained, Watch, draw, draw_frames,
    html::{Section, report},
    picture::{Frame, Series, line_chart, to_gif, to_png},
    prepare,
    replacing::Recorded,
    report::smoothed,
    sheet::{picture, pictures},
    train,
};

/// The experiment the demonstration runs; the same file is `experiments/digits/edm.toml`.
const EXPERIMENT: &str = include_str!("../../../experiments/digits/edm.toml");

/// Where the demonstration leaves its pictures, and what to change in its experiment.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Where the pictures go.
    pub out: PathBuf,
    /// Settings of the experiment, `path=value`.
    pub settings: Vec<String>,
    /// Name of the device.
    pub device: String,
    /// Whether files may be replaced that no demonstration left.
    pub force: bool,
}

/// How good the samples of the demonstration are.
pub struct DemoOutcome {
    /// The three numbers; `None` if it was stopped before the end.
    pub quality: Option<Quality>,
    /// A table of them, for people.
    pub summary: String,
}

/// Whether class-conditional samples are good, in three numbers: are they of their class, as varied as the data, and not copies of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// [`Agreement`] with 5 nearest neighbors among the training data.
    pub agreement: f64,
    /// The same of the test data: what agreement can be expected of real data.
    pub agreement_of_test: f64,
    /// [`Spread`]: within the classes of the samples over that of the training data.
    pub spread: f64,
    /// [`Novelty`]: mean distance of the samples to the nearest training example over that of the test data. Copies would give 0.
    pub novelty: f64,
}

impl Quality {
    /// Of samples (`values` in row order, drawn for `labels`) of labeled data.
    fn of(values: &[f32], labels: &[u32], train: &Data, test: &Data) -> Result<Self> {
        let metrics: [AnyMetric; 3] = [Agreement::default().into(), Spread {}.into(), Novelty {}.into()];
        let mut session = Session::new(&metrics, train.dim())?;
        for (side, data) in [(Side::Reference, train), (Side::HeldOut, test)] {
            let labels = data.labels.as_ref().ok_or_else(|| Error::new("the demonstration needs data with classes"))?;
            let labels: Vec<u32> = labels.iter().map(|&label| label as u32).collect();
            session.update(side, Batch::from(&data.all_rows()?).labeled(&labels))?;
        }
        session.update(Side::Samples, Batch::from(values).labeled(labels))?;
        let measured: Vec<Measured> = session.finish().into_iter().collect::<Result<_>>()?;
        let [agreement, spread, novelty] = &measured[..] else { unreachable!("three metrics give three results") };
        Ok(Self {
            agreement: agreement.value,
            agreement_of_test: agreement.part("held_out").unwrap_or(f64::NAN),
            spread: spread.value,
            novelty: novelty.value,
        })
    }
}

/// Samples that are measured.
const MEASURED: usize = 1000;
/// Samples of each class in the picture.
const SHOWN: usize = 10;

/// Runs the demonstration. A run that was stopped goes on where it was.
///
/// # Errors
/// A directory that cannot be written, a run there of another experiment, and those of training and sampling.
pub fn demo(options: &DemoOptions, watch: &mut dyn Watch) -> Result<DemoOutcome> {
    let experiment = Experiment::parse(EXPERIMENT, &options.settings)?;
    ensure!(
        experiment.data.conditional && matches!(experiment.data.source, Source::Digits(_)),
        "the demonstration is of the digits by class: leave data.source and data.conditional alone, or use `stein train`"
    );
    let run = options.out.join("run");
    fs::create_dir_all(&options.out).map_err(|error| {
        Error::of(Kind::File, format!("cannot make the directory {}: {error}", options.out.display()))
    })?;
    claim(options).map(drop)?;
    let start = if RunDir::is_one(&run) { Start::Resume } else { Start::New };
    let training = TrainOptions { start, out: run, data_dir: None, device: options.device.clone() };
    let prepared = prepare(&experiment, &training)?;
    let (parameters, examples) = (prepared.parameters(), prepared.examples());
    let trained = train(prepared, watch)?;
    if trained.stopped {
        let summary = format!("stopped at step {}; the same command goes on from there\n", trained.step);
        return Ok(DemoOutcome { quality: None, summary });
    }
    match finish(&experiment, options, &trained, parameters, examples, watch) {
        Err(error) if error.kind() == Kind::Stopped => {
            let summary = "stopped while sampling; the same command goes on\n".to_owned();
            Ok(DemoOutcome { quality: None, summary })
        }
        other => other,
    }
}

/// What is left beside the run.
const FILES: [&str; 4] = ["samples.png", "trajectory.gif", "loss.png", "report.html"];

/// The record of those files, none of which is anyone else's.
fn claim(options: &DemoOptions) -> Result<Recorded> {
    let recorded = Recorded::new(&options.out.join("demo.json"), Vec::new(), options.force)?;
    FILES.iter().try_for_each(|name| recorded.check(&options.out.join(name)))?;
    Ok(recorded)
}

/// Samples, measures, and writes pictures and report.
fn finish(
    experiment: &Experiment,
    options: &DemoOptions,
    trained: &Trained,
    parameters: usize,
    examples: usize,
    watch: &mut dyn Watch,
) -> Result<DemoOutcome> {
    let model = &trained.model;
    let drawn = draw(model, MEASURED, experiment.seed, &Classes::All, &model.sample, watch)?;
    let shown_labels =
        drawn.labels.clone().ok_or_else(|| Error::new("the demonstration needs data.conditional = true"))?;
    let of = |split| experiment.data.load(split, None);
    let (train_data, test_data) = (of(Split::Train)?, of(Split::Test)?);
    let quality = Quality::of(&drawn.values, &shown_labels, &train_data, &test_data)?;

    let shown: Vec<usize> = (0..MEASURED).filter(|i| i % (MEASURED / model.subject.classes.len()) < SHOWN).collect();
    let dim = model.subject.dim();
    let shown_values: Vec<f32> = shown.iter().flat_map(|&i| &drawn.values[i * dim..(i + 1) * dim]).copied().collect();
    let shown_labels: Vec<u32> = shown.iter().map(|&i| shown_labels[i]).collect();
    let samples = to_png(&picture(model, &shown_values, Some(&shown_labels))?)?;
    let trajectory = trajectory(model, experiment.seed, watch)?;
    let loss = to_png(&loss_chart(trained)?)?;

    let rows = table(&quality, trained, &drawn.summary, parameters, examples);
    let page = report(
        "Stein: digits from noise",
        &[
            Section::Text(format!(
                "A class-conditional model in the formulation of Karras et al. (2022), trained on the {examples} handwritten \
                 digits of UCI optdigits (Alpaydin and Kaynak, CC BY 4.0) and sampled with {} evaluations per sample.",
                drawn.summary.evaluations
            )),
            Section::Table {
                header: ["what", "value", "meaning"].map(String::from).to_vec(),
                rows: rows.iter().map(|row| row.to_vec()).collect(),
            },
            picture_section("samples.png", &samples, "image/png", "Samples, one class per row."),
            picture_section("trajectory.gif", &trajectory, "image/gif", "The way from noise to samples."),
            picture_section("loss.png", &loss, "image/png", "The training loss."),
            Section::Heading("The experiment".into()),
            Section::Code(experiment.to_toml()),
        ],
    )?;
    let recorded = claim(options)?;
    let paths = FILES.map(|name| options.out.join(name));
    for (path, bytes) in paths.iter().zip([&samples[..], &trajectory, &loss, page.as_bytes()]) {
        write_atomically(path, |file| file.write_all(bytes))?;
    }
    recorded.write(&paths.each_ref().map(PathBuf::as_path), Map::new())?;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let summary = rows
        .iter()
        .map(|[what, value, meaning]| format!("{what:<0$}  {value:>1$}  {meaning}\n", width(0), width(1)))
        .collect();
    Ok(DemoOutcome { quality: Some(quality), summary })
}

fn picture_section(name: &str, bytes: &[u8], mime: &str, caption: &str) -> Section {
    Section::Picture { name: name.into(), bytes: bytes.to_vec(), mime: mime.into(), caption: caption.into() }
}

/// The way from noise to samples, as the bytes of an animation.
fn trajectory(model: &Model, seed: u64, watch: &mut dyn Watch) -> Result<Vec<u8>> {
    let classes = model.subject.classes.len();
    let config = SampleConfig { grid: stein::Grid { steps: 40, ..model.sample.grid.clone() }, ..model.sample.clone() };
    let drawn = draw_frames(model, 8 * classes, seed, &Classes::All, &config, watch)?;
    to_gif(&pictures(model, &drawn.values, drawn.labels.as_deref(), &drawn.frames)?, 80, 2000)
}

fn loss_chart(trained: &Trained) -> Result<image::RgbImage> {
    let points: Vec<(f64, f64)> = trained
        .run
        .metrics()?
        .iter()
        .filter_map(|line| Some((line["step"].as_f64()?, line["loss"].as_f64()?)))
        .collect();
    let smooth = smoothed(&points);
    let series = [
        Series { name: String::new(), points, faint: true },
        Series { name: "training loss".into(), points: smooth, faint: false },
    ];
    let frame = Frame { title: "Denoising loss", x: "step", y: "loss", size: (960, 600) };
    line_chart(&series, &frame, true, None)?.picture()
}

fn table(
    quality: &Quality,
    trained: &Trained,
    drawn: &Summary,
    parameters: usize,
    examples: usize,
) -> Vec<[String; 3]> {
    let row = |what: &str, value: String, meaning: String| [what.to_owned(), value, meaning];
    vec![
        row(
            "class agreement",
            format!("{:.1} %", 100.0 * quality.agreement),
            format!(
                "samples given their class by 5 nearest training digits; real test digits: {:.1} %",
                100.0 * quality.agreement_of_test
            ),
        ),
        row(
            "within-class spread",
            format!("{:.3}", quality.spread),
            "relative to the training digits (1 is right)".into(),
        ),
        row(
            "distance to training",
            format!("{:.3}", quality.novelty),
            "mean distance to the nearest training digit, relative to the test digits (a copy has 0)".into(),
        ),
        row(
            "training",
            format!("{:.0} s", trained.seconds),
            format!("this time, to step {} on {examples} digits", trained.step),
        ),
        row(
            "sampling",
            format!("{:.1} s", drawn.seconds),
            format!("{MEASURED} samples, {} evaluations each", drawn.evaluations),
        ),
        row("parameters", parameters.to_string(), "weights of the network".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experiment_parses_and_is_of_the_built_in_digits() {
        let experiment = Experiment::parse(EXPERIMENT, &[]).unwrap();
        assert!(matches!(experiment.data.source, Source::Digits(_)));
        assert!(experiment.data.conditional);
    }
}
