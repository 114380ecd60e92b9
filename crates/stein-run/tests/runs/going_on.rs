//! What is stopped, killed, damaged, extended or begun from another model goes on, and nothing is lost on the way.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use stein::{
    AnyObjective, Condition, Denoising, Error, Examples, Keys, Kind, LevelDistribution, Objective, Preconditioned,
    Result,
};
use stein_data::Split;
use stein_nn::{Checkpoint, Weights, state};
use stein_run::{
    AnyFamily, Changes, Classes, Event, Experiment, Model, RESUMABLE, RunDir, Silent, Start, TrainOptions, Trained,
    Watch, draw, prepare, train,
};

use crate::{options, run, tiny};

/// Writes down the sentences, and stops the work when a condition holds of the step last trained and the step last sampled.
struct Spy<F> {
    notes: Vec<String>,
    at: (u64, u64),
    asked: AtomicUsize,
    stop: F,
}

impl<F: Fn(u64, u64) -> bool + Send> Spy<F> {
    fn new(stop: F) -> Self {
        Self { notes: Vec::new(), at: (0, 0), asked: AtomicUsize::new(0), stop }
    }

    fn said(&self, part: &str) -> bool {
        self.notes.iter().any(|note| note.contains(part))
    }
}

impl<F: Fn(u64, u64) -> bool + Send> Watch for Spy<F> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Trained { step, .. } => self.at = (step, 0),
            Event::Sampled { done, .. } => self.at.1 = done,
            Event::Note(sentence) => self.notes.push(sentence.to_owned()),
            _ => {}
        }
    }

    fn going(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if (self.stop)(self.at.0, self.at.1) { Err(Error::stopped()) } else { Ok(()) }
    }
}

fn start(experiment: &Experiment, out: &Path, start: Start, watch: &mut dyn Watch) -> Result<Trained> {
    train(prepare(experiment, &TrainOptions { start, ..options(out.to_owned(), false) })?, watch)
}

fn refused(experiment: &Experiment, out: &Path, from: Start) -> String {
    let sentence = start(experiment, out, from, &mut Silent).err().expect("it went through").to_string();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    sentence
}

fn open(run: &Path) -> Result<Model> {
    Model::open(run.to_str().unwrap(), &stein::Device::flex())
}

fn last(run: &Path) -> Checkpoint {
    Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap()
}

/// The metrics without what depends on the time.
fn metrics(run: &Path) -> Vec<Value> {
    let mut lines = RunDir::open(run).unwrap().metrics().unwrap();
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("examples_per_second")));
    lines
}

/// How often each pair of tag and step stands in the event files of a run.
fn points(run: &Path) -> BTreeMap<(String, u8), usize> {
    let mut points = BTreeMap::new();
    let files = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.to_string_lossy().contains("tfevents")) {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let message = &rest[12..12 + length];
            rest = &rest[16 + length..];
            // Nine bytes of time, the step in one byte, then the summary: two lengths before the tag's own.
            if message[9] == 0x10 {
                let tag = message[11..].split(|&byte| byte == 0x0a).find(|part| part.len() > 4).unwrap();
                let name = String::from_utf8_lossy(&tag[1..1 + tag[0] as usize]).into_owned();
                *points.entry((name, message[10])).or_default() += 1;
            }
        }
    }
    points
}

#[test]
fn of_many_starts_in_one_directory_one_trains() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let started: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..8).map(|_| scope.spawn(|| prepare(&tiny(&[]), &options(out.clone(), false)))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let (trained, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(|started| started.is_ok());
    assert_eq!((trained.len(), refused.len()), (1, 7));
    for sentence in refused.into_iter().map(|refused| refused.err().unwrap().to_string()) {
        assert!(sentence.contains("another process") || sentence.contains("holds a run already"), "{sentence}");
        assert!(sentence.contains("--out"), "{sentence}");
    }
    // Nor is it resumed while it lives; afterwards it is.
    let live = self::refused(&tiny(&[]), &out, Start::Resume);
    assert!(live.contains("being trained by another process"), "{live}");
    drop(trained);
    assert_eq!(start(&tiny(&[]), &out, Start::Resume, &mut Silent).unwrap().step, 12);
}

#[test]
fn what_another_run_left_is_not_taken_for_one_s_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    run(&tiny(&["train.steps=4"]), &at("old"), false).unwrap();
    let events = fs::read_dir(at("old")).unwrap().map(|entry| entry.unwrap().file_name());
    let events = events.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("events")).unwrap();
    let left = ["checkpoints/00000004.safetensors", "metrics.jsonl", "samples/00000004.png", &events];
    for (i, name) in left.into_iter().enumerate() {
        let out = at(&format!("new{i}"));
        fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
        fs::copy(at("old").join(name), out.join(name)).unwrap();
        let sentence = refused(&tiny(&[]), &out, Start::New);
        assert!(sentence.contains(name) && sentence.contains("--out"), "{sentence}");
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(at("old").join(name)).unwrap());
    }
    // A start that was killed before there was a run is no run, and other people's files are in nobody's way.
    let out = at("begun");
    fs::create_dir_all(out.join("checkpoints")).unwrap();
    fs::copy(at("old/checkpoints/00000000.safetensors"), out.join("checkpoints/00000000.safetensors")).unwrap();
    for name in ["notes.txt", "checkpoints/99.safetensors", "checkpoints/.stein-aaaaaa.part"] {
        fs::write(out.join(name), b"mine").unwrap();
    }
    assert_eq!(start(&tiny(&[]), &out, Start::New, &mut Silent).unwrap().step, 12);
    assert_eq!(fs::read(out.join("checkpoints/99.safetensors")).unwrap(), b"mine");
    assert!(!out.join("checkpoints/.stein-aaaaaa.part").exists());
}

#[test]
fn files_that_are_no_checkpoints_of_ours_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(&["train.steps=4"]), folder.path(), false).unwrap();
    let checkpoints = folder.path().join("checkpoints");
    let foreign =
        ["99.safetensors", "+99.safetensors", "000000099.safetensors", "00000099.safetensors.bak", "last.safetensors"];
    foreign.iter().for_each(|name| fs::write(checkpoints.join(name), b"mine").unwrap());
    fs::create_dir(checkpoints.join("00000098.safetensors")).unwrap();
    let directory = RunDir::open(folder.path()).unwrap();
    assert_eq!(directory.checkpoints().unwrap(), [0, 4]);
    open(folder.path()).unwrap();
    // What a kill in the middle of a write leaves goes when the run goes on.
    let halves = ["", "checkpoints", "samples"].map(|inner| folder.path().join(inner).join(".stein-Ab12Cd.part"));
    halves.iter().for_each(|path| fs::write(path, b"half").unwrap());
    start(&tiny(&[]), folder.path(), Start::Resume, &mut Silent).unwrap();
    assert_eq!(directory.checkpoints().unwrap(), [8, 12]);
    assert!(foreign.iter().all(|name| fs::read(checkpoints.join(name)).unwrap() == b"mine"));
    assert!(halves.iter().all(|path| !path.exists()));
}

#[test]
fn a_damaged_checkpoint_is_gone_behind_and_what_came_after_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    let experiment = tiny(&["train.keep=9", "train.sample_every=6"]);
    run(&experiment, &whole, false).unwrap();
    run(&experiment, &out, false).unwrap();
    let newest = RunDir::open(&out).unwrap().latest().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, &bytes).unwrap();
    let sentence = refused(&experiment, &out, Start::Resume);
    assert!(
        sentence.contains("00000012.safetensors") && sentence.contains("--resume-from STEP (0, 4, 8)"),
        "{sentence}"
    );
    let sentence = refused(&experiment, &out, Start::ResumeFrom(5));
    assert!(sentence.contains("no checkpoint of step 5: it has those of 0, 4, 8, 12"), "{sentence}");

    let mut spy = Spy::new(|_, _| false);
    start(&experiment, &out, Start::ResumeFrom(4), &mut spy).unwrap();
    assert!(spy.said("after-00000004"), "{:?}", spy.notes);
    assert!(last(&out) == last(&whole), "the run that went on from step 4 is another");
    assert_eq!(metrics(&out), metrics(&whole));
    assert_eq!(points(&out), points(&whole));
    assert!(points(&out).values().all(|&times| times == 1), "{:?}", points(&out));
    assert_eq!(points(&out).keys().filter(|(tag, _)| tag == "loss").count(), 12);
    let aside = out.join("after-00000004");
    assert_eq!(fs::read(aside.join("checkpoints/00000012.safetensors")).unwrap(), bytes);
    assert_eq!(fs::read_to_string(aside.join("metrics.jsonl")).unwrap().lines().count(), 8);
    for name in ["checkpoints/00000008.safetensors", "samples/00000006.png", "samples/00000012.png"] {
        assert!(aside.join(name).is_file() && out.join(name).is_file(), "{name}");
    }
    // Another time, another folder.
    start(&experiment, &out, Start::ResumeFrom(4), &mut Silent).unwrap();
    assert!(out.join("after-00000004-2/checkpoints/00000012.safetensors").is_file() && aside.is_dir());
}

#[test]
fn a_damaged_line_of_metrics_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(&["train.steps=8"]), folder.path(), false).unwrap();
    let path = RunDir::open(folder.path()).unwrap().metrics_path();
    let mut lines: Vec<Vec<u8>> = fs::read(&path).unwrap().split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    lines[2] = b"{\"step\": 3, \"loss\": 0.\xff\xfe".to_vec();
    fs::write(&path, lines.join(&b'\n')).unwrap();
    let mut spy = Spy::new(|_, _| false);
    start(&tiny(&[]), folder.path(), Start::Resume, &mut spy).unwrap();
    let steps: Vec<u64> = metrics(folder.path()).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert!(spy.said("line 3 of") && spy.said("{\"step\": 3"), "{:?}", spy.notes);
}

#[test]
fn a_stop_between_two_lines_changes_no_line_and_no_point() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let experiment = tiny(&["train.log_every=5"]);
    run(&experiment, &whole, false).unwrap();
    for (stop, from) in [(3, Start::New), (7, Start::Resume), (8, Start::Resume), (99, Start::Resume)] {
        start(&experiment, &parts, from, &mut Spy::new(move |step, _| step >= stop)).unwrap();
    }
    assert!(last(&parts) == last(&whole));
    assert_eq!(metrics(&parts), metrics(&whole));
    assert_eq!(points(&parts), points(&whole));
}

#[test]
fn a_sheet_that_was_interrupted_is_made_when_training_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = tiny(&["train.sample_every=3"]);
    let mut spy = Spy::new(|step, sampled| step == 3 && sampled >= 2);
    let stopped = start(&experiment, folder.path(), Start::New, &mut spy).unwrap();
    let sheet = stopped.run.sample_path(3);
    assert!(stopped.stopped && stopped.step == 3 && !sheet.exists());
    assert!(spy.said("step 3 is left for when training goes on"), "{:?}", spy.notes);
    let mut spy = Spy::new(|_, _| false);
    start(&experiment, folder.path(), Start::Resume, &mut spy).unwrap();
    for step in [3, 6, 9, 12] {
        let sheet = stopped.run.sample_path(step);
        assert!(sheet.is_file() && sheet.with_extension("png.json").is_file(), "{step}");
        assert_eq!(points(folder.path())[&("samples".to_owned(), step as u8)], 1);
    }
    assert!(spy.said("00000003.png shows the average of the weights"), "{:?}", spy.notes);
}

#[test]
fn a_stop_is_heard_within_a_level_and_within_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let trained = run(&tiny(&["train.steps=1"]), &folder.path().join("run"), false).unwrap();
    let langevin = ["sample.sampler={kind=\"langevin\", steps=100000}", "sample.grid.steps=2"].map(String::from);
    let config = trained.model.sample.with(&Changes { settings: langevin.to_vec(), ..Changes::default() }).unwrap();
    // At the start of the level and before each of three evaluations.
    struct After(AtomicUsize);
    impl Watch for After {
        fn event(&mut self, _: Event<'_>) {}
        fn going(&self) -> Result<()> {
            if self.0.fetch_add(1, Ordering::Relaxed) < 4 { Ok(()) } else { Err(Error::stopped()) }
        }
    }
    let mut after = After(AtomicUsize::new(0));
    let stopped = draw(&trained.model, 2, 0, &Classes::Default, &config, &mut after).unwrap_err();
    assert_eq!((stopped.kind(), after.0.into_inner()), (Kind::Stopped, 5));
    // In training before each of the two parts of a batch; the step that was begun is not half taken.
    let mut after = After(AtomicUsize::new(2));
    let stopped = start(&tiny(&[]), &folder.path().join("stopped"), Start::New, &mut after).unwrap();
    assert_eq!((stopped.step, after.0.into_inner()), (0, 5));
    start(&tiny(&[]), &folder.path().join("stopped"), Start::Resume, &mut Silent).unwrap();
    run(&tiny(&[]), &folder.path().join("whole"), false).unwrap();
    assert!(last(&folder.path().join("stopped")) == last(&folder.path().join("whole")));
}

#[test]
fn a_picture_that_fails_ends_no_training() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = tiny(&["train.sample_every=4"]);
    let prepared = prepare(&experiment, &options(folder.path().to_owned(), false)).unwrap();
    fs::create_dir(folder.path().join("samples/00000004.png")).unwrap();
    let mut spy = Spy::new(|_, _| false);
    let trained = train(prepared, &mut spy).unwrap();
    assert_eq!(trained.step, 12);
    assert!(spy.said("there is no picture of step 4") && spy.said("00000004.png"), "{:?}", spy.notes);
    assert!(trained.run.sample_path(8).is_file());
}

#[test]
fn weights_that_are_not_finite_are_never_saved() {
    let folder = tempfile::tempdir().unwrap();
    let good = tiny(&["train.checkpoint_every=1", "train.keep=1", "train.steps=3"]);
    run(&good, folder.path(), false).unwrap();
    // The first step throws the weights so far that nothing can be made of them; its loss and gradient are still those of good ones.
    let wild = "train.rate={rate=1e30, warmup=0}";
    for (out, from, step) in [("new", Start::New, 0), ("from", Start::From(folder.path().to_str().unwrap().into()), 0)]
    {
        let out = folder.path().join(out);
        let sentence = refused(&tiny(&["train.checkpoint_every=1", "train.keep=1", wild]), &out, from);
        assert!(sentence.contains("not finite") || sentence.contains("held_out_loss is"), "{sentence}");
        assert!(sentence.contains("last good checkpoint") && sentence.contains("00000000.safetensors"), "{sentence}");
        assert_eq!(RunDir::open(&out).unwrap().checkpoints().unwrap(), [step]);
        last(&out).check_finite().unwrap();
        open(&out).unwrap();
    }
}

#[test]
fn a_write_that_fails_names_the_file_and_leaves_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(&tiny(&[]), &options(folder.path().to_owned(), false)).unwrap();
    symlink("/dev/full", folder.path().join("metrics.jsonl")).unwrap();
    let error = train(prepared, &mut Silent).err().unwrap();
    assert!(error.kind() == Kind::File && error.to_string().contains("metrics.jsonl"), "{error}");
    open(folder.path()).unwrap();
    // A checkpoint that finds no place: where it should lie is a folder.
    let prepared = prepare(&tiny(&[]), &options(folder.path().join("other"), false)).unwrap();
    let place = folder.path().join("other/checkpoints/00000004.safetensors");
    fs::create_dir(&place).unwrap();
    let error = train(prepared, &mut Silent).err().unwrap();
    assert!(error.kind() == Kind::File && error.to_string().contains("00000004.safetensors"), "{error}");
    open(&folder.path().join("other")).unwrap();
    fs::remove_dir(place).unwrap();
    assert_eq!(start(&tiny(&[]), &folder.path().join("other"), Start::Resume, &mut Silent).unwrap().step, 12);
}

#[test]
fn a_finished_run_goes_on_with_its_decay_and_only_what_may_change_changes() {
    let folder = tempfile::tempdir().unwrap();
    let decay = |steps: u64| tiny(&[&format!("train.steps={steps}"), "train.rate.decay={kind=\"cosine\"}"]);
    run(&decay(6), folder.path(), false).unwrap();
    let directory = RunDir::open(folder.path()).unwrap();
    let longer = directory.experiment_with(&["train.steps=12".into()]).unwrap();
    assert_eq!(longer, decay(12));
    start(&longer, folder.path(), Start::Resume, &mut Silent).unwrap();
    // The rates: warm-up to step 3, then half a cosine to the end, which moved.
    for (line, end) in metrics(folder.path()).iter().zip([6; 6].into_iter().chain([12; 6])) {
        let n = line["step"].as_f64().unwrap() - 1.0;
        let falls = 0.5 * (1.0 + (std::f64::consts::PI * ((n - 3.0) / (f64::from(end) - 3.0)).max(0.0)).cos());
        let wanted = 1e-2 * ((n + 1.0) / 3.0).min(1.0) * falls;
        assert!((line["rate"].as_f64().unwrap() - wanted).abs() < 1e-12, "{line} for {wanted}");
    }
    for change in ["train.log_every=3", "train.keep=1", "sample.grid.steps=9", "train.rate.decay.steps=20"] {
        let changed = directory.experiment_with(&[change.into(), "train.steps=12".into()]).unwrap();
        start(&changed, folder.path(), Start::Resume, &mut Silent).unwrap();
        let key = change.split('=').next().unwrap();
        assert!(RESUMABLE.iter().any(|known| key.starts_with(known)), "{key}");
        assert_eq!(directory.experiment().unwrap(), changed);
    }
    for (change, said) in [
        ("train.rate.rate=0.5", "train.rate.rate is 0.5 and was 0.01"),
        ("train.optimizer.clip=2", "train.optimizer.clip is 2.0 and was 1.0"),
        ("family.network.hidden=32", "family.network.hidden is 32 and was 16"),
    ] {
        let changed = directory.experiment_with(&[change.into()]).unwrap();
        let sentence = refused(&changed, folder.path(), Start::Resume);
        assert!(sentence.contains(said) && sentence.contains("only train.steps,"), "{sentence}");
    }
}

#[test]
fn a_run_begins_from_the_weights_of_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    run(&tiny(&[]), &at("first"), false).unwrap();
    let first = at("first").to_str().unwrap().to_owned();
    let other = tiny(&["data.source.shape=swiss_roll", "data.conditional=false", "train.steps=2"]);
    let sentence = refused(&other, &at("other"), Start::From(first.clone()));
    assert!(sentence.contains("not those of this network") && !at("other").exists(), "{sentence}");
    let sentence = refused(&tiny(&[]), &at("other"), Start::From("nowhere".into()));
    assert!(sentence.contains("no model at nowhere"), "{sentence}");

    let tuned =
        tiny(&["train.steps=2", "seed=9", "train.keep=9", "family.prediction={kind=\"eps\"}", "train.rate.rate=1e-4"]);
    let mut spy = Spy::new(|_, _| false);
    start(&tuned, &at("tuned"), Start::From(first), &mut spy).unwrap();
    assert!(spy.said("family.prediction.kind is \"eps\" and was \"edm\""), "{:?}", spy.notes);
    let begun = Checkpoint::read(&RunDir::open(&at("tuned")).unwrap().checkpoint_path(0)).unwrap();
    let (begun, source) = (&begun.learners["denoiser"], &last(&at("first")).learners["denoiser"]);
    assert!(source.weights != *source.average.as_ref().unwrap(), "the test needs an average of its own");
    assert!(begun.weights == *source.average.as_ref().unwrap() && begun.average == source.average);
    // Where it began is known from then on.
    let longer = RunDir::open(&at("tuned")).unwrap().experiment_with(&["train.steps=4".into()]).unwrap();
    start(&longer, &at("tuned"), Start::Resume, &mut Silent).unwrap();
    let from = PathBuf::from(&last(&at("tuned")).metadata["from"]);
    assert_eq!(from, at("first").join("checkpoints/00000012.safetensors"));
}

#[test]
fn raw_weights_and_their_average_are_told_apart_and_a_young_average_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let device = stein::Device::flex();
    let young = tiny(&["train.ema={kind=\"decay\", decay=0.99, warmup=false}"]);
    run(&young, &at("young"), false).unwrap();
    let name = at("young").to_str().unwrap().to_owned();
    let [raw, average] = [Weights::Raw, Weights::Ema].map(|which| Model::open_with(&name, which, &device).unwrap());
    assert_eq!((raw.weights, average.weights), (Some(Weights::Raw), Some(Weights::Ema)));
    assert_eq!(open(&at("young")).unwrap().weights, Some(Weights::Ema));
    let values = |model: &Model| draw(model, 4, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values;
    assert!(values(&raw) != values(&average));
    // 0.99^12 = 88.6 %.
    let caution = average.caution().unwrap();
    assert!(caution.contains("89 %") && caution.contains("--weights raw"), "{caution}");
    assert_eq!(raw.caution(), None);
    // By default an average is of what was learned.
    run(&tiny(&[]), &at("old"), false).unwrap();
    assert_eq!(open(&at("old")).unwrap().caution(), None);
    prepare(&tiny(&[]), &options(at("new"), false)).unwrap();
    assert!(open(&at("new")).unwrap().caution().unwrap().contains("nothing yet"));
    let exact = Model::open_with("exact:m.json", Weights::Raw, &device).err().unwrap().to_string();
    assert!(exact.contains("no weights"), "{exact}");
}

#[test]
fn the_loss_on_held_out_data_is_that_of_the_objective() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = tiny(&["train.log_every=3", "train.steps=8", "train.checkpoint_every=4", "seed=3"]);
    let mut spy = Spy::new(|_, _| false);
    let trained = start(&experiment, folder.path(), Start::New, &mut spy).unwrap();
    let held_out = experiment.data.source.load(Split::Test, None).unwrap();
    assert!(spy.said(&format!("500 examples to train on, {} held out", held_out.len())), "{:?}", spy.notes);
    let measured: BTreeMap<u64, f64> = metrics(folder.path())
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["held_out_loss"].as_f64()?)))
        .collect();
    assert_eq!(measured.keys().copied().collect::<Vec<_>>(), [4, 8]);

    // 4 · 24 examples lie between two checkpoints; a twentieth of the time is worth three times as many examples.
    let count = 4 * 24 / 20 * 3;
    let index: Vec<usize> = (0..count).map(|i| i * held_out.len() / count).collect();
    let AnyFamily::Diffusion(family) = &experiment.family else { unreachable!("the experiment is one of diffusion") };
    let device = stein::Device::flex();
    let keys = Keys::range(3, 1 << 63, count);
    let subject = &trained.model.subject;
    let x = subject.encode(&held_out.rows(&index).unwrap(), &keys, &device).unwrap();
    let labels = held_out.labels.as_ref().unwrap();
    let given = Condition::classes(index.iter().map(|&i| labels[i] as u32));
    for (step, loss) in measured {
        let saved = Checkpoint::read(&trained.run.checkpoint_path(step)).unwrap();
        let network = family.network.build(&[2], subject.classes.len(), 0, &device).unwrap();
        let network = state::load(network, &saved.learners["denoiser"].weights).unwrap();
        let model = Preconditioned::new(network, family.precondition(), family.schedule.clone()).unwrap();
        let objective = family.objective.as_ref().unwrap();
        let examples = Examples::new(&x, &given, &keys);
        let wanted = objective.loss(&model.view(), &examples).unwrap().into_scalar::<f64>();
        // At single levels too, on a fifth of the rows: those in the middle of five equal parts of ln(σ/α) ~ N(−1.2, 1.2²).
        let line =
            metrics(folder.path()).into_iter().find(|line| line["step"] == step && line["held_out_loss"].is_f64());
        let levels: BTreeMap<String, f64> = line
            .unwrap()
            .as_object()
            .unwrap()
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("held_out_level/")?.to_owned(), value.as_f64()?)))
            .collect();
        let noise: Vec<f64> = levels.keys().map(|name| name.parse().unwrap()).collect();
        let expected = [-1.2816, -0.5244, 0.0, 0.5244, 1.2816].map(|z| (-1.2f64 + 1.2 * z).exp());
        assert_eq!(noise.len(), 5);
        // Quantiles of a thousand draws, to four standard errors.
        noise.iter().zip(expected).for_each(|(n, wanted)| assert!((n / wanted).ln().abs() < 0.3, "{noise:?}"));
        let rows: Vec<usize> = (0..3).collect();
        let (part, of, own) = (x.clone().narrow(0, 0, 3), given.select(&rows), keys.select(&rows));
        let AnyObjective::Denoising(denoising) = objective else { unreachable!("it is the default") };
        let single = Denoising { levels: LevelDistribution::Single { noise: noise[2] }, ..*denoising };
        let there = single.loss(&model.view(), &Examples::new(&part, &of, &own)).unwrap().into_scalar::<f64>();
        let said = levels.values().nth(2).unwrap();
        // The level's name is rounded to three decimals.
        assert!((there / said - 1.0).abs() < 0.02, "{there} for {said} at {}", noise[2]);
        assert!((loss - wanted).abs() < 1e-5 * wanted, "step {step}: {loss} for {wanted}");
    }
}
