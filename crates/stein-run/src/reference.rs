//! What an experiment can say, in words: the names of everything, their settings, and a reference of all keys.
//!
//! All of it comes from the types that are read ([`Explain`]): there is no second list of anything.

use std::fmt::Write as _;

use stein::{
    AnyObjective, AnySchedule, AnyWrapper, InputScale, LevelDistribution, LevelList, MapForm, NoiseInput, Prediction,
    Result, Spacing, Weighting,
    adversarial::Penalty,
    codec::AnyCodecConfig,
    consistency::{AnyMapObjective, Metric, PairWeighting, Points, Shrink, Target},
    coupling::Coupling,
    flow_matching::PathNoise,
    guidance::ScaleByLevel,
    inverse::measurement::{BlurKernel, Mask},
    names,
    pixel::PixelLikelihood,
    vae::Decoding,
};
use stein_base::{
    Error, Explain,
    explain::{self, Choice, Entry, Form, Key, Table},
};
use stein_data::Source;
use stein_metrics::AnyMetric;
use stein_nn::{
    AdamWConfig, Decay, EmaConfig, EmbeddingConfig, NetworkConfig, NoiseNumber, PlayerConfig, flows::InvertibleConfig,
};

use crate::{
    AnyFamily, Experiment, MeasurementConfig, Method, Task, TaskMethod, device, evaluate::register_metrics,
    family::Latents,
};

/// All that plays one role.
#[derive(Debug, Clone)]
pub struct List {
    /// What they are called together, such as `samplers`.
    pub name: &'static str,
    /// What they are.
    pub about: &'static str,
    /// The flag that takes a name, where there is one.
    pub flag: Option<&'static str>,
    /// The type that is read.
    kind: &'static str,
    /// Whether a name is written as a `kind`.
    tagged: bool,
    /// The keys they are values of.
    pub places: Vec<String>,
    /// They.
    pub entries: Vec<Entry>,
}

/// The lists, in the order of an experiment.
pub fn lists() -> Vec<List> {
    register_metrics();
    let places = Places::of_experiments();
    let list = |name, form: Form, flag, about| {
        let (kind, tagged, entries) = match form {
            Form::Choice(choice) => (choice.name, true, (choice.entries)()),
            Form::Table(table) => (table.name, true, kinds(&table)),
            _ => ("", false, device::entries()),
        };
        List { name, about, flag, kind, tagged, places: places.named(kind), entries }
    };
    vec![
        list("data", Source::form(), None, "what is learned from"),
        list(
            "codecs",
            AnyCodecConfig::form(),
            None,
            "what turns data into the numbers a model works on, one after the other",
        ),
        list("families", AnyFamily::form(), None, "what is learned, and what it can then do"),
        list("schedules", AnySchedule::form(), Some("--schedule"), "how noise grows with time"),
        list("levels", LevelList::form(), None, "how the levels of the discrete schedule are listed"),
        list("predictions", Prediction::form(), None, "what the output of the network stands for"),
        list("input_scales", InputScale::form(), None, "how the input of the network is scaled"),
        list("noise_inputs", NoiseInput::form(), None, "which number tells the network how noisy its input is"),
        list("networks", NetworkConfig::form(), None, "which network, and how large"),
        list("embeddings", EmbeddingConfig::form(), None, "how a network makes features of the noise number"),
        list("noise_numbers", NoiseNumber::form(), None, "what the noise number of the network ncsnpp is"),
        list("latents", Latents::form(), None, "what the latents of an autoencoder are"),
        list("flows", InvertibleConfig::form(), None, "which bijection a normalizing flow is, and how large"),
        list("pixel_likelihoods", PixelLikelihood::form(), None, "the distribution of a pixel"),
        list(
            "decoders",
            Decoding::form(),
            None,
            "the law of a sample, of what the decoder of a variational autoencoder puts out",
        ),
        list("players", PlayerConfig::form(), None, "the two networks of a generative adversarial network"),
        list("penalties", Penalty::form(), None, "what the slope of a discriminator costs"),
        list("objectives", AnyObjective::form(), None, "what is minimized"),
        list("couplings", Coupling::form(), None, "how flow matching pairs items of the data and of the source"),
        list("path_noises", PathNoise::form(), None, "what is added to paths of flow matching between their ends"),
        list("level_distributions", LevelDistribution::form(), None, "which levels are trained on, how often"),
        list("weightings", Weighting::form(), None, "what the loss weighs at a level"),
        list("forms", MapForm::form(), None, "how the output of a network makes a flow map, and where that leads"),
        list("map_objectives", AnyMapObjective::form(), None, "what is minimized so that a flow map is learned"),
        list("points", Points::form(), None, "into how many levels trajectories are cut as training goes on"),
        list("targets", Target::form(), None, "whose weights a flow map is compared with"),
        list("distances", Metric::form(), None, "how far two images of a flow map are apart"),
        list("pair_weightings", PairWeighting::form(), None, "what two neighbors on a trajectory count"),
        list("shrinks", Shrink::form(), None, "by how much steps of easy consistency tuning shrink with the level"),
        list("optimizers", AdamWConfig::form(), None, "how gradients change weights"),
        list("rate_decays", Decay::form(), None, "how the learning rate falls"),
        list("averages", EmaConfig::form(), None, "the average of the weights, which is what is sampled"),
        list("samplers", Method::form(), Some("--sampler"), "what draws samples, level by level"),
        list("grids", Spacing::form(), Some("--grid"), "how the levels a sampler stops at are spaced"),
        list("wrappers", AnyWrapper::form(), None, "what is wrapped around a model when it is sampled"),
        list("scales", ScaleByLevel::form(), None, "how strong guidance is, where it varies with the level"),
        list("measurements", MeasurementConfig::form(), None, "what is measured, in the task of `stein restore`"),
        list("masks", Mask::form(), None, "which places of a sample are known"),
        list("blur_kernels", BlurKernel::form(), None, "what pictures are blurred with"),
        list("methods", TaskMethod::form(), Some("--method"), "what draws samples of what a measurement leaves open"),
        list("metrics", AnyMetric::form(), Some("--metrics"), "what says how good samples are"),
        list("devices", Form::Plain("device"), Some("--device"), "what computes; a GPU is built in with --features"),
    ]
}

/// What a table may be by its key `kind`, one of some words: each with the other keys.
fn kinds(table: &Table) -> Vec<Entry> {
    let (kind, keys): (Vec<Key>, Vec<Key>) = (table.keys)().into_iter().partition(|key| key.name == "kind");
    let of_kind = |entry: Entry| Entry { details: explain::text(table.doc), keys: keys.clone(), ..entry };
    kind.iter().flat_map(|kind| words(&kind.form)).map(of_kind).collect()
}

/// The keys at which types are read.
#[derive(Default)]
struct Places {
    /// Type and key, in the order of an experiment.
    found: Vec<(&'static str, String)>,
    /// The tables, each with the first key it stands at.
    tables: Vec<(Table, String)>,
}

impl Places {
    fn of_experiments() -> Self {
        let mut places = Self::default();
        places.visit(&Experiment::form(), "");
        places.visit(&Task::form(), "");
        places
    }

    fn visit(&mut self, form: &Form, at: &str) {
        match form {
            Form::Plain(_) => {}
            Form::Optional(form) => self.visit(form, at),
            Form::List(form) => self.visit(form, &format!("{at}[]")),
            Form::Table(table) => {
                if self.is_new(table.name, at) {
                    self.tables.push((*table, at.to_owned()));
                    self.keys(&(table.keys)(), at);
                }
            }
            Form::Choice(choice) => {
                if self.is_new(choice.name, at) {
                    (choice.entries)().iter().for_each(|entry| self.keys(&entry.keys, at));
                }
            }
        }
    }

    fn keys(&mut self, keys: &[Key], at: &str) {
        for key in keys {
            let inner = if at.is_empty() { key.name.clone() } else { format!("{at}.{}", key.name) };
            self.visit(&key.form, &inner);
        }
    }

    /// Notes a key; whether the type was not met before, so that what holds itself has an end.
    fn is_new(&mut self, kind: &'static str, at: &str) -> bool {
        let new = !self.found.iter().any(|(known, _)| *known == kind);
        if !self.found.iter().any(|found| *found == (kind, at.to_owned())) {
            self.found.push((kind, at.to_owned()));
        }
        new
    }

    fn named(&self, kind: &str) -> Vec<String> {
        self.found.iter().filter(|(known, _)| *known == kind).map(|(_, at)| at.clone()).collect()
    }
}

/// What there is, on a screen or two: of `Some` list a line for each of its names, of a name all about it.
///
/// # Errors
/// A word that is neither a list nor a name, answered with those there are, nearest first.
pub fn listed(words: &[String]) -> Result<String> {
    let lists = lists();
    let list = |word: &str| lists.iter().find(|list| names::same(list.name, word));
    match words {
        [] => Ok(overview(&lists)),
        [word] => match list(word) {
            Some(list) => {
                Ok(list.entries.iter().map(|entry| format!("{:<22}{}\n", entry.name, first(&entry.meaning))).collect())
            }
            None => details(&lists, &lists, word),
        },
        [first, word, ..] => match list(first) {
            Some(list) => details(&lists, std::slice::from_ref(list), word),
            None => Err(names::unknown("list", first, &lists.iter().map(|list| list.name).collect::<Vec<_>>())),
        },
    }
}

fn overview(lists: &[List]) -> String {
    let mut text = String::new();
    for list in lists {
        let known: Vec<&str> = list.entries.iter().map(|entry| entry.name.as_str()).collect();
        let flag = list.flag.map(|flag| format!(" ({flag})")).unwrap_or_default();
        let (about, known) = (format!("{:<22}{}{flag}", list.name, list.about), known.join(", "));
        // A few words stay on the line of what they are.
        let _ = match about.chars().count() + 2 + known.len() <= 100 {
            true => writeln!(text, "{about}: {known}"),
            false => writeln!(text, "{about}\n{}", wrapped(&known, 22)),
        };
    }
    text + "\nA line for each: stein list samplers. All settings of one: stein list heun.\n"
}

/// All about the things of this name in some of the lists.
fn details(all: &[List], among: &[List], word: &str) -> Result<String> {
    let found = |fits: &dyn Fn(&Entry) -> bool| -> Vec<(&List, Entry)> {
        let entries = among.iter().flat_map(|list| list.entries.iter().map(move |entry| (list, entry)));
        entries.filter(|(_, entry)| fits(entry)).map(|(list, entry)| (list, entry.clone())).collect()
    };
    let mut known = found(&|entry| names::same(&entry.name, word));
    known.extend(found(&|entry| {
        !names::same(&entry.name, word) && entry.aliases.iter().any(|alias| names::same(alias, word))
    }));
    if known.is_empty() {
        let lists = all.iter().filter(|_| among.len() > 1).map(|list| list.name.to_owned());
        let entries = among.iter().flat_map(|list| list.entries.iter().map(|entry| entry.name.clone()));
        let mut names: Vec<String> = lists.chain(entries).collect();
        names.sort();
        names.dedup();
        return Err(Error::new(format!(
            "nothing is called `{word}`; known, nearest first: {}",
            names::nearest_first(word, &names)
        )));
    }
    let parts: Vec<String> = known.iter().map(|(list, entry)| part(all, list, entry)).collect();
    Ok(parts.join("\n"))
}

/// One thing with all its keys.
fn part(all: &[List], list: &List, entry: &Entry) -> String {
    let mut text = format!("{} ({})\n", entry.name, list.name);
    for paragraph in entry.meaning.lines().chain(more(entry).lines()) {
        text += &format!("{}\n", wrapped(paragraph, 0));
    }
    if !entry.aliases.is_empty() {
        text += &format!("{}\n", wrapped(&format!("Also called {}.", entry.aliases.join(", ")), 0));
    }
    for place in &list.places {
        let _ = match place.strip_suffix("[]") {
            Some(place) => writeln!(text, "  {place} = [{}]", example(list, entry)),
            None => writeln!(text, "  {place} = {}", example(list, entry)),
        };
    }
    if let Some(flag) = list.flag {
        text += &format!("  {flag} {}\n", entry.name);
    }
    let mut rows = Vec::new();
    collect(&entry.keys, "", &mut rows);
    for (name, key) in rows {
        text += &format!("\n  {name}: {}{}\n", shown(all, &key.form), given(&key));
        for paragraph in key.meaning_alone().lines() {
            text += &format!("{}\n", wrapped(paragraph, 4));
        }
        for word in self::words(&key.form) {
            text += &format!("{}\n", wrapped(&format!("{:?}: {}", word.name, word.meaning), 6));
        }
    }
    text
}

/// What the documentation of its type adds to its line in a list.
fn more(entry: &Entry) -> &str {
    if entry.meaning == entry.details { "" } else { &entry.details }
}

/// The keys of a table, with those of tables in it under their paths.
fn collect(keys: &[Key], at: &str, rows: &mut Vec<(String, Key)>) {
    for key in keys {
        let name = format!("{at}{}", key.name);
        rows.push((name.clone(), key.clone()));
        if let Form::Table(table) = bare(&key.form) {
            collect(&(table.keys)(), &format!("{name}."), rows);
        }
    }
}

/// The form of a value that is given.
fn bare(form: &Form) -> &Form {
    match form {
        Form::Optional(form) => bare(form),
        form => form,
    }
}

/// The words a value is one of; none where it is anything else.
fn words(form: &Form) -> Vec<Entry> {
    match bare(form) {
        Form::Choice(Choice { tagged: false, entries, .. }) => entries(),
        _ => Vec::new(),
    }
}

/// A form in a few words, with the list a kind is from.
fn shown(all: &[List], form: &Form) -> String {
    match listed_in(all, form) {
        Some((list, true)) => format!("list of tables, see stein list {}", list.name),
        Some((list, false)) => format!("table, see stein list {}", list.name),
        None => form.to_string(),
    }
}

/// The list that holds the kinds of a form, and whether the form is a list of them.
fn listed_in<'a>(all: &'a [List], form: &Form) -> Option<(&'a List, bool)> {
    match bare(form) {
        Form::List(form) => listed_in(all, form).map(|(list, _)| (list, true)),
        Form::Table(table) => all.iter().find(|list| list.kind == table.name).map(|list| (list, false)),
        Form::Choice(choice) if choice.tagged => {
            // Samplers that predict are a part of all methods, which are listed.
            let entries = (choice.entries)();
            let has = |list: &List, entry: &Entry| list.entries.iter().any(|known| known.name == entry.name);
            let own = all.iter().find(|list| list.kind == choice.name);
            let found = own.or_else(|| all.iter().find(|list| entries.iter().all(|entry| has(list, entry))));
            found.map(|list| (list, false))
        }
        _ => None,
    }
}

/// Whether a key must be given, or its default.
fn given(key: &Key) -> String {
    match key.default_text() {
        Some(default) => format!("; default {default}"),
        None if key.required() => "; required".into(),
        None => "; may be left out".into(),
    }
}

/// How a thing is written with the keys it needs.
fn example(list: &List, entry: &Entry) -> String {
    let needed = entry.keys.iter().filter(|key| key.required()).map(|key| format!("{} = …", key.name));
    let kind = list.tagged.then(|| format!("kind = {:?}", entry.name));
    let keys: Vec<String> = kind.into_iter().chain(needed).collect();
    if keys.is_empty() { "{}".into() } else { format!("{{ {} }}", keys.join(", ")) }
}

/// The first paragraph.
fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Text in lines of at most 100 letters, all of them indented.
fn wrapped(text: &str, indent: usize) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![" ".repeat(indent)];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        let length = line.chars().count();
        if length > indent && length + 1 + word.chars().count() > WIDTH {
            lines.push(" ".repeat(indent) + word);
        } else {
            line.extend([if length > indent { " " } else { "" }, word]);
        }
    }
    lines.join("\n")
}

const INTRODUCTION: &str = "\
# Keys

All that an experiment file can say. `stein list` says the same in a terminal: `stein list samplers`, `stein list heun`.

An experiment is TOML. Keys are written with their sections, or as one path: `train.steps=2000` is `steps = 2000` under `[train]`.
`--set PATH=VALUE` of `stein train` and `stein demo` takes every path, that of `stein sample` those that begin with `sample.`. What is
told apart by a `kind` is a table, `{ kind = \"ddim\", eta = 0.5 }`; `--set sample.sampler=ddim` replaces it by another kind with its
defaults, and `--set sample.sampler.eta=0.5` changes one of its keys. A key without a default is required, unless a dash says that it
may be left out. Keys that no one knows are refused.

Names are understood in every usual spelling, `DPM-Solver++` for `dpm_solver_pp`, and under other names that mean exactly the same
thing, which are given with each. What is kept with a run has the names below.

";

/// The reference of all keys, in Markdown.
pub fn markdown() -> String {
    let (places, lists) = (Places::of_experiments(), lists());
    let mut text = INTRODUCTION.to_owned();
    text += "## Sections\n\n";
    for (table, at) in &places.tables {
        // What stands in a list is described there.
        if lists.iter().any(|list| list.kind == table.name) {
            continue;
        }
        let heading = match (at.as_str(), table.name) {
            ("", "Task") => "The file of a task".to_owned(),
            ("", _) => "The file".to_owned(),
            (at, "TaskSample") => format!("`{at}` of a task"),
            (at, _) => format!("`{at}`"),
        };
        let _ = writeln!(text, "### {heading}\n\n{}\n", explain::text(table.doc));
        text += &rows(&lists, &(table.keys)());
    }
    for list in &lists {
        let _ = writeln!(text, "## {}\n", list.name);
        let at: Vec<String> =
            list.places.iter().map(|at| format!("`{at}`")).chain(list.flag.map(|flag| format!("`{flag}`"))).collect();
        let _ = writeln!(text, "{}{}: {}.\n", list.about[..1].to_uppercase(), &list.about[1..], at.join(", "));
        for entry in &list.entries {
            let _ = writeln!(text, "### {}\n", entry.name);
            for paragraph in entry.meaning.lines().chain(more(entry).lines()) {
                let _ = writeln!(text, "{paragraph}\n");
            }
            if !entry.aliases.is_empty() {
                let aliases: Vec<String> = entry.aliases.iter().map(|alias| format!("`{alias}`")).collect();
                let _ = writeln!(text, "Also called {}.\n", aliases.join(", "));
            }
            text += &rows(&lists, &entry.keys);
        }
    }
    text.trim_end().to_owned() + "\n"
}

/// A table of keys.
fn rows(lists: &[List], keys: &[Key]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let mut text = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in keys {
        let value = match (listed_in(lists, &key.form), bare(&key.form)) {
            (Some((list, true)), _) => format!("list of [{0}](#{0})", list.name),
            (Some((list, false)), _) => format!("one of [{0}](#{0})", list.name),
            (None, Form::Choice(_)) => "one of the words".into(),
            (None, form) => form.to_string(),
        };
        let default = match key.default_text() {
            Some(default) => format!("`{default}`"),
            None if key.required() => String::new(),
            None => "–".into(),
        };
        let mut meaning = key.meaning_alone();
        for word in words(&key.form) {
            let _ = write!(meaning, " `{}`: {}", word.name, word.meaning);
        }
        let _ = writeln!(
            text,
            "| `{}` | {value} | {default} | {} |",
            key.name,
            meaning.replace('\n', " ").replace('|', "\\|")
        );
    }
    text + "\n"
}
