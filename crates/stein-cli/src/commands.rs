//! What each subcommand does with its arguments.

use std::{
    ffi::OsStr,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::CommandFactory;
use stein::{Error, Kind, Projection, Result, Variance, ensure};
use stein_data::{Data, Split, Stats};
use stein_run::{
    Bounded, Changes, Classes, CodeOptions, DataChoice, DataConfig, DemoOptions, EditOptions, EvaluateOptions,
    Experiment, FieldOptions, Format, ImportOptions, Interpolation, LikelihoodOptions, Model, Of, Output, PathsOptions,
    RestoreOptions, RunDir, Start, Streams, Subject, SweepOptions, Task, TaskMethod, TrainOptions, VersusOptions,
    Weights, bench, compare, decode_to, default_count, demo, device, draw_field, draw_paths, draw_prompts,
    draw_to_file, edit_to, encode_to_file, evaluate, export, import, interpolate, likelihood, prepare, preview_to_file,
    reference, report_runs, restore_to, samplers_of, sweep, train, versus,
};

use crate::{
    args::{
        Args, BenchCommand, Command, Compare, DataCommand, DataSource, Decode, Edit, Evaluate, Import, Interpolate,
        Likelihood, Measures, ModelData, Part, Paths, Precision, Restore, Sample, Sampling, Show, Sweep, Train, Versus,
        Which, Work,
    },
    bars::{Bars, tell},
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
        tell("stein: this processor has no bf16 instructions; products are computed in f32");
    }
    // On one of the worker threads, which hands work to the others without going to sleep itself.
    rayon::scope(|_| execute(args.command, device_name))
}

/// Prints a help text, or says what of the command line was not understood.
pub fn answer(answer: &clap::Error) -> Result<ExitCode> {
    match answer.print() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe && !answer.use_stderr() => Err(unprinted(&error)),
        _ => Ok(ExitCode::from(answer.exit_code() as u8)),
    }
}

fn unprinted(error: &std::io::Error) -> Error {
    Error::new(format!("cannot write to the standard output: {error}"))
}

fn execute(command: Command, device_name: String) -> Result<ExitCode> {
    match command {
        Command::Demo { out, settings, force } => {
            let options = DemoOptions { out: out.clone(), settings, device: device_name, force };
            let outcome = demo(&options, &mut Bars::new(on_interrupt(TRAINING)?))?;
            say(&outcome.summary)?;
            if outcome.quality.is_none() {
                return Ok(ExitCode::from(STOPPED));
            }
            say(&format!("pictures, report.html and the run are in {}\n", out.display()))?;
        }
        Command::Train(train) => return train_run(train, device_name),
        Command::Sample(sample) => return sample_model(&sample, &device_name),
        Command::Import(Import { source, from, config, weights, schedule, output, check, force }) => {
            let options = ImportOptions { source, from, config, weights, schedule, output, check, force };
            let (report, passed) = import(&options)?;
            say(&report)?;
            ensure!(passed, "some tensors differ by more than rounding explains; they are marked in the table");
        }
        Command::Export { model, output, force } => say(&export(&model, &output, force)?)?,
        Command::Likelihood(args) => return likelihood_of(&args, &device_name),
        Command::Evaluate(args) => return evaluate_samples(args, &device_name),
        Command::Edit(args) => return edit_inputs(args, &device_name),
        Command::Restore(args) => return restore_inputs(args, &device_name),
        Command::Sweep(args) => return sweep_samplers(args, &device_name),
        Command::Encode(args) => {
            let model = open(&args.model, None, &device_name)?;
            return watched(|watch| {
                let codes = encode_to_file(&args.output, &model, &(&args.data).into(), &(&args.paths).into(), watch)?;
                announce(&format!("{} codes, {} evaluations each, {:.2} s", codes.n, codes.evaluations, codes.seconds));
                Ok(())
            });
        }
        Command::Decode(args) => return decode(&args, &device_name),
        Command::Interpolate(args) => {
            let model = open(&args.model, None, &device_name)?;
            let Interpolate { steps, linear, temperature, seed, .. } = args;
            let streams = args.streams.then(|| Streams { seed, class: args.data.class.clone() });
            let pairs = Interpolation::pairs(&args.pairs)?;
            let between = Interpolation { pairs, steps, linear, temperature, streams };
            return watched(|watch| {
                interpolate(&args.output, &model, &(&args.data).into(), &between, &(&args.paths).into(), watch)
            });
        }
        Command::Compare(args) => return compare_models(&args, &device_name),
        Command::Data { command } => data(command)?,
        Command::Report { runs, output } => {
            let runs: Vec<&Path> = runs.iter().map(PathBuf::as_path).collect();
            report_runs(&runs, &output)?;
            say(&format!("{}\n", output.display()))?;
        }
        Command::Versus(args) => return compare_families(args, device_name),
        Command::Show(args) => show(&args, &device_name)?,
        Command::List { words } => say(&reference::listed(&words)?)?,
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
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(unprinted(&error)),
        _ => Ok(()),
    }
}

/// Tells a person at a terminal how things go; silent elsewhere.
fn announce(line: &str) {
    if std::io::stderr().is_terminal() {
        tell(line);
    }
}

/// What the first Ctrl-C is answered with.
const TRAINING: &str =
    "stopping and writing a checkpoint; Ctrl-C again ends at once, and --resume repeats the steps since the last one";
const SAMPLING: &str = "stopping; nothing will be written";

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn on_interrupt(answer: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(STOPPED.into());
        }
        tell(answer);
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

fn train_run(args: Train, device: String) -> Result<ExitCode> {
    let Train { file, settings, out, resume, resume_from, from, data } = args;
    let out = out.or_else(|| file.as_deref().map(|file| Path::new("runs").join(default_name(file))));
    let Some(out) = out else {
        return Err(Error::new("there is nothing to go on with: give the directory of a run, --out DIR"));
    };
    let experiment = match file {
        Some(file) => Experiment::read(&file, &settings)?,
        None => RunDir::open(&out)?.experiment_with(&settings)?,
    };
    let start = match (resume, resume_from, from) {
        (true, ..) => Start::Resume,
        (_, Some(step), _) => Start::ResumeFrom(step),
        (_, _, Some(model)) => Start::From(model),
        _ => Start::New,
    };
    let prepared = prepare(&experiment, &TrainOptions { out, start, data_dir: data, device })?;
    let trained = train(prepared, &mut Bars::new(on_interrupt(TRAINING)?))?;
    let last = trained.run.metrics()?.iter().rev().find_map(|line| line["loss"].as_f64());
    let loss = last.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
    if trained.stopped {
        let out = trained.run.root().display();
        say(&format!("stopped at step {}{loss}; stein train --resume --out {out} goes on\n", trained.step))?;
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

fn open(model: &OsStr, weights: Option<Which>, device_name: &str) -> Result<Model> {
    let device = device(device_name)?;
    match weights {
        None => Model::open(model, &device),
        Some(weights) => Model::open_with(model, weights.into(), &device),
    }
}

impl From<Which> for Weights {
    fn from(which: Which) -> Self {
        match which {
            Which::Raw => Self::Raw,
            Which::Ema => Self::Ema,
        }
    }
}

/// Does work that writes at its end, and says so where Ctrl-C ended it.
fn watched(work: impl FnOnce(&mut Bars) -> Result<()>) -> Result<ExitCode> {
    let mut bars = Bars::new(on_interrupt(SAMPLING)?);
    let outcome = work(&mut bars);
    bars.clear();
    match outcome {
        Err(error) if error.kind() == Kind::Stopped => {
            tell("stein: stopped; nothing was written");
            Ok(ExitCode::from(STOPPED))
        }
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

impl From<&Paths> for CodeOptions {
    fn from(paths: &Paths) -> Self {
        Self { schedule: paths.schedule.clone(), tolerance: paths.tolerance, force: paths.force }
    }
}

fn decode(args: &Decode, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, None, device_name)?;
    let output = Output { path: args.output.clone(), format: None, force: args.paths.force };
    let (class, options) = (args.class.as_deref(), CodeOptions::from(&args.paths));
    watched(|watch| decode_to(&output, &model, &args.codes, class, args.temperature, &options, watch).map(drop))
}

fn compare_models(args: &Compare, device_name: &str) -> Result<ExitCode> {
    let (a, b) = (open(&args.a, None, device_name)?, open(&args.b, None, device_name)?);
    let output = args.output.as_deref();
    let mut text = String::new();
    let code = watched(|watch| {
        let found = compare([&a, &b], &(&args.data).into(), &(&args.paths).into(), output, watch)?;
        text = if args.json {
            json_line(&found)?
        } else {
            format!(
                "samples                    {}\ncorrelation of codes       {:.4} ± {:.4} over samples\nof one and the next sample {:.4}\n",
                found.n, found.correlation, found.spread, found.others
            )
        };
        Ok(())
    })?;
    say(&text)?;
    Ok(code)
}

impl From<Part> for Split {
    fn from(part: Part) -> Self {
        match part {
            Part::Train => Self::Train,
            Part::Test => Self::Test,
        }
    }
}

impl From<&ModelData> for DataChoice {
    fn from(data: &ModelData) -> Self {
        let ModelData { name, settings, split, n, class, data_dir } = data;
        Self {
            name: name.clone(),
            settings: settings.clone(),
            split: split.map(Split::from),
            folder: data_dir.clone(),
            n: *n,
            class: class.clone(),
        }
    }
}

impl From<Sampling> for Changes {
    fn from(sampling: Sampling) -> Self {
        let Sampling { sampler, steps, grid, schedule, guidance, negative } = sampling;
        Self { sampler, grid, steps, schedule, guidance, negative, settings: Vec::new() }
    }
}

impl From<Measures> for EvaluateOptions {
    fn from(measures: Measures) -> Self {
        let Measures { against, metrics, metric_settings, features, feature_weights, n, reference_n, seed, data_dir } =
            measures;
        Self {
            against,
            metrics,
            metric_settings,
            features,
            weights: feature_weights,
            n,
            reference_n,
            seed,
            folder: data_dir,
            ..Self::default()
        }
    }
}

fn evaluate_samples(args: Evaluate, device_name: &str) -> Result<ExitCode> {
    let of = Of::open(&args.of, args.weights.map(Weights::from), &device(device_name)?)?;
    let of = match of {
        Of::Model(model) => Of::Model(Box::new(model.with_data_in(args.measures.data_dir.as_deref()))),
        data => data,
    };
    let (sampling, reading) = args.settings.into_iter().partition(|setting| setting.starts_with("sample."));
    let options = EvaluateOptions {
        split: args.split.map(Split::from),
        held_out: args.held_out,
        settings: reading,
        reference: args.reference,
        sampling: Changes { settings: sampling, ..args.sampling.into() },
        by_class: args.by_class,
        report: args.report.clone(),
        force: args.force,
        ..args.measures.into()
    };
    let mut text = String::new();
    let code = watched(|watch| {
        let found = evaluate(&of, &options, watch)?;
        text = if args.json { json_line(&found.json())? } else { found.to_string() };
        Ok(())
    })?;
    say(&text)?;
    if let Some(folder) = args.report.filter(|_| !text.is_empty()) {
        announce(&format!("the page is {}", folder.join("index.html").display()));
    }
    Ok(code)
}

fn compare_families(args: Versus, device: String) -> Result<ExitCode> {
    let Versus { files, minutes, output, runs, n, likelihoods, features, data_dir } = args;
    let runs = runs.unwrap_or_else(|| output.with_extension(""));
    ensure!(runs != output, "the page {} has no ending to leave out: give --runs DIR", output.display());
    let options = VersusOptions { minutes, output, runs, n, likelihoods, features, data_dir, device };
    let mut bars = Bars::new(on_interrupt(TRAINING)?);
    let outcome = versus(&files, &options, &mut bars);
    bars.clear();
    match outcome {
        Err(error) if error.kind() == Kind::Stopped => {
            tell("stein: stopped; the same command goes on");
            Ok(ExitCode::from(STOPPED))
        }
        other => {
            other?;
            say(&format!("{}\n", options.output.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn sweep_samplers(args: Sweep, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, args.weights, device_name)?.with_data_in(args.measures.data_dir.as_deref());
    let of = Of::Model(Box::new(model));
    let options = SweepOptions {
        samplers: samplers_of(&args.samplers),
        steps: args.steps,
        grids: args.grids,
        sampling: Changes {
            schedule: args.schedule,
            guidance: args.guidance,
            settings: args.settings,
            ..Changes::default()
        },
        evaluate: args.measures.into(),
        output: args.output,
        force: args.force,
    };
    let mut text = String::new();
    let code = watched(|watch| {
        let found = sweep(&of, &options, watch)?;
        text = if args.json { json_line(&found.json())? } else { found.to_string() };
        Ok(())
    })?;
    say(&text)?;
    Ok(code)
}

fn likelihood_of(args: &Likelihood, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, args.weights, device_name)?;
    let options = LikelihoodOptions {
        data: (&args.data).into(),
        schedule: args.schedule.clone(),
        bound: Bounded::named(&args.bound)?,
        divergence: args.divergence.clone(),
        probes: args.probes,
        projection: Projection::named(&args.projection)?,
        probe: args.probe.clone(),
        tolerance: args.tolerance,
        draws: args.draws,
        steps: args.steps,
        variance: args.variance.as_deref().map(Variance::named).transpose()?,
        published: args.published,
        closed_form: args.closed_form,
        seed: args.seed,
        output: args.output.clone(),
        rank: args.rank.clone(),
        force: args.force,
    };
    let mut text = String::new();
    let code = watched(|watch| {
        let found = likelihood(&model, &options, watch)?;
        text = if args.json { json_line(&found)? } else { found.to_string() };
        Ok(())
    })?;
    say(&text)?;
    Ok(code)
}

fn sample_model(args: &Sample, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, args.weights, device_name)?;
    let model = beginning(model.with_data_in(args.data_dir.as_deref()), args.source.as_deref())?;
    if let Some(caution) = model.caution() {
        tell(format!("stein: {}: {caution}", model.name));
    }
    let model = match &args.start {
        Some(start) => model.starting_with(start)?,
        None => model,
    };
    let config = model.sample.with(&Changes { settings: args.settings.clone(), ..args.sampling.clone().into() })?;
    let format = args.format.as_deref().map(Format::named).transpose()?;
    let output = Output { path: args.output.clone(), format, force: args.force };
    let interrupted = on_interrupt(SAMPLING)?;
    let mut bars = Bars::new(Arc::clone(&interrupted));
    if let Some(prompts) = &args.prompts {
        let drawn = draw_prompts(prompts, &output, &model, args.n.unwrap_or(1), args.seed, &config, &mut bars);
        bars.clear();
        return match drawn {
            Err(error) if error.kind() == Kind::Stopped => {
                tell("stein: stopped; the files of the texts before this one are written");
                Ok(ExitCode::from(STOPPED))
            }
            Err(error) => Err(error),
            Ok(count) => {
                announce(&format!("{count} files in {}", args.output.display()));
                Ok(ExitCode::SUCCESS)
            }
        };
    }
    let classes = match (&args.class, &args.prompt[..]) {
        (Some(class), _) => Classes::Named(class.clone()),
        (None, []) => Classes::Default,
        (None, prompts) => Classes::Texts(prompts.to_vec()),
    };
    let n = args.n.map_or_else(|| default_count(&model, &classes, &config), Ok)?;
    let drawn = draw_to_file(&output, &model, n, args.seed, &classes, &config, &mut bars);
    bars.clear();
    match drawn {
        Err(error) if error.kind() == Kind::Stopped => {
            if !interrupted.load(Ordering::Relaxed) {
                // Whoever read the samples has enough of them.
                return Ok(ExitCode::SUCCESS);
            }
            tell("stein: stopped; nothing was written");
            Ok(ExitCode::from(STOPPED))
        }
        Err(error) => Err(error),
        Ok(drawn) => {
            announce(&format!("{n} samples, {} evaluations each, {:.2} s", drawn.evaluations, drawn.seconds));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A model whose samples begin from the items of data, where they are named.
fn beginning(model: Model, source: Option<&str>) -> Result<Model> {
    match source {
        Some(source) => model.beginning_from(source),
        None => Ok(model),
    }
}

fn edit_inputs(args: Edit, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, args.weights, device_name)?;
    let (sampling, reading) = args.settings.into_iter().partition(|setting| setting.starts_with("sample."));
    let options = EditOptions {
        mask: args.mask,
        strength: args.strength,
        n: args.n,
        inputs: args.inputs,
        class: args.class,
        prompt: args.prompt,
        seed: args.seed,
        sampling: Changes { settings: sampling, ..args.sampling.into() },
        reading,
        folder: args.data_dir,
        force: args.force,
        ..EditOptions::new(args.input)
    };
    watched(|watch| {
        let edited = edit_to(&args.output, &model, &options, watch)?;
        announce(&format!(
            "{} result(s) of each of {} input(s), {} evaluations, {:.2} s",
            options.n, edited.inputs, edited.evaluations, edited.seconds
        ));
        Ok(())
    })
}

fn restore_inputs(args: Restore, device_name: &str) -> Result<ExitCode> {
    let model = open(&args.model, args.weights, device_name)?;
    let mut settings = args.settings;
    let of_task =
        |setting: &String| ["measurement.", "method.", "method="].iter().any(|part| setting.starts_with(part));
    let (mut of_task, rest): (Vec<String>, Vec<String>) = settings.drain(..).partition(of_task);
    let (sampling, reading) = rest.into_iter().partition(|setting| setting.starts_with("sample."));
    if let Some(method) = &args.method {
        of_task.insert(0, format!("method={}", TaskMethod::named(method)?.kind()));
    }
    let task = Task::read(&args.task, &of_task)?;
    let options = RestoreOptions {
        task_folder: args.task.parent().map(Path::to_owned),
        simulate: args.simulate,
        truth: args.truth,
        n: args.n,
        inputs: args.inputs,
        class: args.class,
        seed: args.seed,
        sampling: Changes { steps: args.steps, grid: args.grid, settings: sampling, ..Changes::default() },
        reading,
        split: args.split.map(Split::from),
        folder: args.data_dir,
        metric_settings: args.metric_settings,
        force: args.force,
        ..RestoreOptions::new(task, args.input)
    };
    let mut text = String::new();
    let code = watched(|watch| {
        let restored = restore_to(&args.output, &model, &options, watch)?;
        let each = restored.seconds / (restored.inputs * restored.n) as f64;
        text = if args.json { json_line(&restored.scores.json())? } else { restored.scores.to_string() };
        announce(&format!(
            "{} sample(s) of each of {} input(s) by {}, {} evaluations, {each:.3} s a sample",
            restored.n,
            restored.inputs,
            options.task.method.kind(),
            restored.evaluations
        ));
        Ok(())
    })?;
    say(&text)?;
    Ok(code)
}

/// The data that are meant, and how they reach a model.
fn load(source: &DataSource) -> Result<(Data, DataConfig)> {
    let config = DataConfig::named(&source.name, &source.settings)?;
    let split = if source.held_out { Split::Test } else { Split::Train };
    Ok((config.load(split, source.data.as_deref())?, config))
}

/// Says what a person should know of the data.
fn tell_notes(data: &Data) {
    data.notes.iter().for_each(|note| tell(format!("stein: {note}")));
}

fn data(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Stats(source) => {
            let (data, config) = load(&source)?;
            say(&Stats::of(&data)?.to_string())?;
            if !config.codec.is_empty() {
                let subject = Subject::of(&data, &config)?;
                let sizes: Vec<String> = subject.state_shape()?.iter().map(usize::to_string).collect();
                let std = subject.variance.sqrt();
                say(&format!("{:<26}{}\n{:<26}{std:.4}\n", "shape after codec", sizes.join("x"), "std after codec"))?;
            }
            Ok(())
        }
        DataCommand::Show { source, output, n, force } => {
            let (data, config) = load(&source)?;
            preview_to_file(&output, &data, &config, n, force)?;
            tell_notes(&data);
            Ok(())
        }
        DataCommand::Get { name, data } => {
            let folder = stein_data::data_folder(data.as_deref());
            let shown = std::io::stderr().is_terminal();
            let mut progress = |done: u64, of: Option<u64>| {
                if shown {
                    let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
                    let _ = write!(std::io::stderr(), "\r{done}{of} bytes ");
                }
            };
            let files = stein_data::get(&name, &folder, &mut progress)?;
            if shown {
                tell("");
            }
            files.iter().try_for_each(|file| say(&format!("{}\n", file.display())))
        }
    }
}

fn show(args: &Show, device_name: &str) -> Result<()> {
    let what = &args.what;
    if let Some(output) = args.output.as_deref().filter(|_| args.field) {
        let model = Model::open(what, &device(device_name)?)?;
        let options = FieldOptions {
            level: args.level,
            class: args.class.clone(),
            folder: args.data_dir.clone(),
            force: args.force,
        };
        let found = draw_field(output, &model, &options)?;
        if let Some(divergence) = found.relative_divergence {
            say(&format!("relative Fisher divergence {divergence:.5} at noise {:.4}\n", found.level))?;
        }
        return Ok(());
    }
    if let Some(output) = args.output.as_deref().filter(|_| args.paths) {
        let model = Model::open(what, &device(device_name)?)?.with_data_in(args.data_dir.as_deref());
        let model = beginning(model, args.source.as_deref())?;
        let options = PathsOptions { n: args.n, class: args.class.clone(), seed: args.seed, force: args.force };
        let found = draw_paths(output, &model, &options)?;
        return say(&format!(
            "{} paths, transport cost {:.4}, curvature {:.5} of it\n",
            found.n, found.transport_cost, found.curvature
        ));
    }
    ensure!(args.output.is_none(), "--output is of a picture: give --field or --paths, or leave it out");
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
    let run = RunDir::within(path).ok();
    if let Some(run) = &run {
        let steps: Vec<String> = run.checkpoints()?.iter().map(u64::to_string).collect();
        lines.push(("checkpoints", steps.join(", ")));
        if let Some(last) = run.metrics()?.last() {
            lines.push(("last metrics", last.to_string()));
        }
    }
    for (name, value) in lines {
        say(&format!("{name:<13} {value}\n"))?;
    }
    if let Some(run) = run {
        say(&format!("\n{}", run.experiment()?.to_toml()))?;
    }
    Ok(())
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
