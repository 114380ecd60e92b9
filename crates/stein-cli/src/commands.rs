//! What each subcommand does with its arguments.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::CommandFactory;
use stein::{AnySchedule, AnyWrapper, Error, Kind, Result, Spacing, codec::AnyCodecConfig, ensure, names};
use stein_data::{Source, Split, Stats};
use stein_run::{
    AnyFamily, Changes, Classes, DEVICES, DemoOptions, Experiment, ImportOptions, Method, Model, RunDir, TrainOptions,
    bench, demo, device, draw_to_file, export, import, prepare, report_runs, train,
};

use crate::{
    args::{Args, BenchCommand, Command, DataCommand, Import, Precision, Sample, Work},
    bars::Bars,
};

/// What a shell expects of a program stopped by Ctrl-C.
const STOPPED: u8 = 130;

/// Runs a command.
pub fn run(args: Args) -> Result<ExitCode> {
    if let Some(threads) = args.machine.threads {
        ensure!(threads >= 1, "--threads 0: give at least one thread");
        stein_run::limit_threads(threads)?;
    }
    let device_name = args.machine.device;
    device(&device_name)?;
    if args.machine.precision == Precision::Bf16 && !stein_run::use_bf16() {
        eprintln!("stein: this processor has no bf16 instructions; products are computed in f32");
    }
    // On one of the worker threads, which hands work to the others without going to sleep itself.
    rayon::scope(|_| execute(args.command, device_name))
}

fn execute(command: Command, device_name: String) -> Result<ExitCode> {
    match command {
        Command::Demo { out, settings } => {
            let options = DemoOptions { out: out.clone(), settings, device: device_name };
            let outcome = demo(&options, &mut Bars::new(on_interrupt()?))?;
            say(&outcome.summary)?;
            if outcome.quality.is_none() {
                return Ok(ExitCode::from(STOPPED));
            }
            say(&format!("pictures, report.html and the run are in {}\n", out.display()))?;
        }
        Command::Train { file, settings, out, resume, data } => {
            let experiment = Experiment::read(&file, &settings)?;
            let out = out.unwrap_or_else(|| Path::new("runs").join(default_name(&file)));
            return train_run(&experiment, TrainOptions { out, resume, data_dir: data, device: device_name });
        }
        Command::Sample(sample) => return sample_model(&sample, &device_name),
        Command::Import(Import { source, from, config, output, check }) => {
            let (report, passed) = import(&ImportOptions { source, from, config, output, check })?;
            say(&report)?;
            ensure!(passed, "some tensors differ by more than rounding explains; they are marked in the table");
        }
        Command::Export { model, output } => say(&export(&model, &output)?)?,
        Command::Data { command } => data(command)?,
        Command::Report { runs, output } => {
            let runs: Vec<&Path> = runs.iter().map(PathBuf::as_path).collect();
            report_runs(&runs, &output)?;
            say(&format!("{}\n", output.display()))?;
        }
        Command::Show { what } => show(&what, &device_name)?,
        Command::List { kind } => list(kind.as_deref())?,
        Command::Bench { command } => bench(command, &device_name)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "stein", &mut script);
            say(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints to stdout; a reader that went away is no error.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("cannot write to the standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person at a terminal how things go; silent elsewhere.
fn announce(line: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{line}");
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(STOPPED.into());
        }
        eprintln!("stopping after this step; Ctrl-C again stops at once");
    })
    .map_err(|error| Error::new(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(flag)
}

/// `points2d-edm` for experiments/points2d/edm.toml.
fn default_name(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let folder = file.parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy());
    match folder {
        Some(folder) => format!("{folder}-{stem}").into(),
        None => stem.into_owned().into(),
    }
}

fn train_run(experiment: &Experiment, options: TrainOptions) -> Result<ExitCode> {
    let prepared = prepare(experiment, &options)?;
    announce(&format!(
        "{}: {} parameters, {} examples, steps {} to {}",
        options.out.display(),
        prepared.parameters(),
        prepared.examples(),
        prepared.step(),
        experiment.train.steps
    ));
    let trained = train(prepared, &mut Bars::new(on_interrupt()?))?;
    let last = trained.run.metrics()?.last().and_then(|line| line["loss"].as_f64());
    let loss = last.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
    if trained.stopped {
        say(&format!("stopped at step {}{loss}; the same command with --resume goes on\n", trained.step))?;
        return Ok(ExitCode::from(STOPPED));
    }
    say(&format!(
        "{} steps in {:.0} s, {:.1} s of them waiting for data{loss}\nmodel {}\n",
        trained.step,
        trained.seconds,
        trained.waited,
        trained.run.latest()?.display()
    ))?;
    let sheet = trained.run.sample_path(trained.step);
    if sheet.exists() {
        say(&format!("samples {}\n", sheet.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn sample_model(args: &Sample, device_name: &str) -> Result<ExitCode> {
    let model = Model::open(&args.model, &device(device_name)?)?;
    let config = model.sample.with(&Changes {
        sampler: args.sampler.clone(),
        grid: args.grid.clone(),
        steps: args.steps,
        schedule: args.schedule.clone(),
        guidance: args.guidance,
        settings: args.settings.clone(),
    })?;
    let classes = match args.class.as_deref() {
        None => Classes::Default,
        Some("all") => Classes::All,
        Some("none") => Classes::None,
        Some(class) => Classes::One(class.to_owned()),
    };
    let mut bars = Bars::new(on_interrupt()?);
    match draw_to_file(&args.output, &model, args.n, args.seed, &classes, &config, &mut bars) {
        Err(error) if error.kind() == Kind::Stopped => {
            eprintln!("stein: stopped; nothing was written");
            Ok(ExitCode::from(STOPPED))
        }
        Err(error) => Err(error),
        Ok(drawn) => {
            bars.clear();
            announce(&format!("{} samples, {} evaluations each, {:.2} s", args.n, drawn.evaluations, drawn.seconds));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn data(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Stats { name, data } => {
            let data = Source::named(&name)?.load(Split::Train, data.as_deref())?;
            say(&Stats::of(&data)?.to_string())
        }
        DataCommand::Get { name, data } => {
            let folder =
                data.or_else(|| std::env::var_os("STEIN_DATA").map(PathBuf::from)).unwrap_or_else(|| "data".into());
            let shown = std::io::stderr().is_terminal();
            let mut progress = |done: u64, of: Option<u64>| {
                if shown {
                    let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
                    eprint!("\r{done}{of} bytes ");
                }
            };
            let files = stein_data::get(&name, &folder, &mut progress)?;
            if shown {
                eprintln!();
            }
            files.iter().try_for_each(|file| say(&format!("{}\n", file.display())))
        }
    }
}

fn show(what: &str, device_name: &str) -> Result<()> {
    let path = Path::new(what);
    if path.extension().is_some_and(|ending| ending == "toml") {
        return say(&Experiment::read(path, &[])?.to_toml());
    }
    let model = Model::open(what, &device(device_name)?)?;
    let subject = &model.subject;
    let mut lines = vec![
        ("model", model.name.clone()),
        ("family", model.family.clone()),
        ("data", subject.name.clone()),
        ("shape", subject.shape.to_string()),
        ("classes", if subject.classes.is_empty() { "none".into() } else { subject.classes.join(", ") }),
        ("variance", format!("{:.4} of the states", subject.variance)),
        ("schedule", model.schedule.as_ref().map_or("none", |schedule| schedule.kind()).to_owned()),
        ("sampler", format!("{}, {} step(s)", model.sample.sampler.kind(), model.sample.grid.intervals())),
    ];
    if RunDir::is_one(path) {
        let run = RunDir::open(path)?;
        let steps: Vec<String> = run.checkpoints()?.iter().map(u64::to_string).collect();
        lines.push(("checkpoints", steps.join(", ")));
        if let Some(last) = run.metrics()?.last() {
            lines.push(("last metrics", last.to_string()));
        }
    }
    for (name, value) in lines {
        say(&format!("{name:<13} {value}\n"))?;
    }
    if RunDir::is_one(path) {
        say(&format!("\n{}", RunDir::open(path)?.experiment()?.to_toml()))?;
    }
    Ok(())
}

fn list(kind: Option<&str>) -> Result<()> {
    let fixed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let kinds = [
        ("families", AnyFamily::names()),
        ("samplers", Method::names()),
        ("wrappers", AnyWrapper::names()),
        ("schedules", AnySchedule::names()),
        ("grids", fixed(Spacing::NAMES)),
        ("codecs", AnyCodecConfig::names()),
        ("networks", fixed(stein_run::NETWORKS)),
        ("data", Source::names()),
        ("devices", fixed(DEVICES)),
    ];
    if let Some(kind) = kind {
        let Some((_, known)) = kinds.iter().find(|(name, _)| *name == kind) else {
            return Err(names::unknown("kind of thing", kind, &kinds.map(|(name, _)| name)));
        };
        return known.iter().try_for_each(|name| say(&format!("{name}\n")));
    }
    kinds.iter().try_for_each(|(kind, known)| say(&format!("{kind:<10} {}\n", known.join(", "))))
}

fn bench(command: BenchCommand, device_name: &str) -> Result<()> {
    match command {
        BenchCommand::Net { size, what, batch, repeat } => {
            let work = match what {
                Work::Evaluate => bench::Work::Evaluate,
                Work::Train => bench::Work::Train,
                Work::Jvp => bench::Work::Jvp,
                Work::Vjp => bench::Work::Vjp,
            };
            let time = bench::bench_net(&size, work, batch, repeat, &device(device_name)?)?;
            say(&json_line(&time)?)
        }
        BenchCommand::Ops { repeat } => bench::bench_ops(repeat, |time| say(&json_line(&time)?)),
    }
}

fn json_line(of: &impl serde::Serialize) -> Result<String> {
    let line = serde_json::to_string(of).map_err(|error| Error::new(format!("a figure cannot be written: {error}")))?;
    Ok(line + "\n")
}
