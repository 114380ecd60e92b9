//! What lists and the reference of keys say, against what reading does. A program of its own: others add things to the registries.

use std::{collections::BTreeSet, fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use stein::{
    AnySchedule, AnyWrapper, InputScale, LevelDistribution, LevelList, MapForm, NoiseInput, Prediction, Spacing,
    Weighting,
    adversarial::Penalty,
    codec::AnyCodecConfig,
    consistency::{AnyMapObjective, Metric, PairWeighting, Points, Shrink, Target},
    coupling::Coupling,
    flow_matching::PathNoise,
    guidance::ScaleByLevel,
    names, settings,
};
use stein_base::{
    Explain,
    explain::{Entry, Form, Key},
};
use stein_data::Source;
use stein_nn::{AdamWConfig, Decay, EmaConfig, EmbeddingConfig, NetworkConfig, NoiseNumber, PlayerConfig};
use stein_run::{AnyFamily, Changes, Experiment, Method, TrainConfig, family::Latents, reference};
use toml::{Table, Value};

/// All that an experiment reaches: the keys with their paths, and the entries of everything that has a name.
#[derive(Default)]
struct Reached {
    types: BTreeSet<&'static str>,
    keys: Vec<(String, Key)>,
    entries: Vec<(&'static str, bool, Entry)>,
}

impl Reached {
    fn by_experiments() -> Self {
        let mut reached = Self::default();
        reached.visit(&Experiment::form(), "experiment");
        reached
    }

    fn visit(&mut self, form: &Form, at: &str) {
        match form {
            Form::Plain(_) => {}
            Form::Optional(form) | Form::List(form) => self.visit(form, at),
            Form::Table(table) if self.types.insert(table.name) => self.take((table.keys)(), at),
            Form::Choice(choice) if self.types.insert(choice.name) => {
                for entry in (choice.entries)() {
                    self.entries.push((choice.name, choice.tagged, entry.clone()));
                    self.take(entry.keys, &format!("{at}={}", entry.name));
                }
            }
            Form::Table(_) | Form::Choice(_) => {}
        }
    }

    fn take(&mut self, keys: Vec<Key>, at: &str) {
        for key in keys {
            let path = format!("{at}.{}", key.name);
            self.visit(&key.form, &path);
            self.keys.push((path, key));
        }
    }
}

#[test]
fn every_key_and_name_is_explained() {
    let reached = Reached::by_experiments();
    assert!(reached.keys.len() > 200, "{} keys", reached.keys.len());
    for (path, key) in &reached.keys {
        assert!(key.meaning.ends_with('.'), "{path} has no sentence that says what it means: `{}`", key.meaning);
        // A number that is stated as the default and is another one would stay.
        let alone = key.meaning_alone();
        let stale = key.default.is_some()
            && alone
                .match_indices("default ")
                .any(|(at, word)| alone[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()));
        assert!(!stale, "{path} = {:?}, and its comment says: {}", key.default, key.meaning);
    }
    let lists = reference::lists();
    for (kind, tagged, entry) in &reached.entries {
        assert!(entry.meaning.ends_with('.'), "{} of {kind} is not explained: `{}`", entry.name, entry.meaning);
        let listed = lists.iter().any(|list| list.entries.iter().any(|known| known.name == entry.name));
        assert!(listed || !tagged, "{} of {kind} is in no list", entry.name);
    }
    for list in &lists {
        assert!(!list.places.is_empty() || list.flag.is_some(), "{} stand nowhere", list.name);
        for entry in &list.entries {
            let about = reference::listed(&[list.name.to_owned(), entry.name.clone()]).unwrap();
            for key in &entry.keys {
                assert!(about.contains(&format!("  {}: ", key.name)), "{} is not in {about}", key.name);
            }
        }
    }
}

#[test]
fn the_reference_of_keys_is_the_one_in_the_documentation() {
    let text = reference::markdown();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/keys.md");
    if std::env::var_os("STEIN_WRITE_KEYS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "docs/keys.md is out of date: run this test once with STEIN_WRITE_KEYS=1 and look at the change"
    );
    for (path, key) in Reached::by_experiments().keys {
        // What a table is by its kind stands under headings.
        assert!(key.name == "kind" || text.contains(&format!("| `{}` | ", key.name)), "{path}");
    }
}

/// What is read from the keys that are required, all else left out, has the defaults that are listed.
fn defaults_are_real<T: Explain + Serialize + DeserializeOwned>() {
    let (entries, tagged) = match T::form() {
        Form::Choice(choice) => ((choice.entries)(), choice.tagged),
        Form::Table(table) => (vec![Entry::new("", &[], table.doc, (table.keys)())], false),
        form => panic!("{form} has no keys"),
    };
    for entry in entries {
        let mut least = Table::new();
        if tagged {
            least.insert("kind".into(), entry.name.clone().into());
        }
        if entry.keys.iter().any(Key::required) {
            let error = settings::read::<T>(least.into()).err().unwrap_or_else(|| panic!("{} needs a key", entry.name));
            let required = entry.keys.iter().find(|key| key.required()).unwrap();
            assert!(error.to_string().contains(&format!("`{}` is missing", required.name)), "{error}");
            continue;
        }
        let Value::Table(mut read) = settings::write(&settings::read::<T>(least.into()).unwrap()).unwrap() else {
            panic!("{} is a table", entry.name)
        };
        for key in &entry.keys {
            // A key that files leave out at its default is not written.
            if let Some(written) = read.remove(&key.name) {
                assert_eq!(key.default.as_ref(), Some(&written), "{}.{}", entry.name, key.name);
            } else if let Some(default) = &key.default {
                let mut said = Table::new();
                if tagged {
                    said.insert("kind".into(), entry.name.clone().into());
                }
                said.insert(key.name.clone(), default.clone());
                let Value::Table(said) = settings::write(&settings::read::<T>(said.into()).unwrap()).unwrap() else {
                    panic!("{} is a table", entry.name)
                };
                assert!(!said.contains_key(&key.name), "{}.{} = {default} is no default", entry.name, key.name);
            }
        }
        read.remove("kind");
        assert!(read.is_empty(), "{} has keys that are not listed: {read:?}", entry.name);
    }
}

#[test]
fn listed_defaults_are_those_of_reading() {
    defaults_are_real::<AnyFamily>();
    defaults_are_real::<AnySchedule>();
    defaults_are_real::<Coupling>();
    defaults_are_real::<Latents>();
    defaults_are_real::<stein::vae::Decoding>();
    defaults_are_real::<stein::pixel::PixelLikelihood>();
    defaults_are_real::<stein_nn::flows::InvertibleConfig>();
    defaults_are_real::<PlayerConfig>();
    defaults_are_real::<Penalty>();
    defaults_are_real::<PathNoise>();
    defaults_are_real::<AnyWrapper>();
    defaults_are_real::<ScaleByLevel>();
    defaults_are_real::<AnyCodecConfig>();
    defaults_are_real::<NetworkConfig>();
    defaults_are_real::<Source>();
    defaults_are_real::<Method>();
    defaults_are_real::<Spacing>();
    defaults_are_real::<LevelList>();
    defaults_are_real::<Prediction>();
    defaults_are_real::<InputScale>();
    defaults_are_real::<NoiseInput>();
    defaults_are_real::<LevelDistribution>();
    defaults_are_real::<Weighting>();
    defaults_are_real::<MapForm>();
    defaults_are_real::<AnyMapObjective>();
    defaults_are_real::<Points>();
    defaults_are_real::<Target>();
    defaults_are_real::<Metric>();
    defaults_are_real::<PairWeighting>();
    defaults_are_real::<Shrink>();
    defaults_are_real::<EmbeddingConfig>();
    defaults_are_real::<NoiseNumber>();
    defaults_are_real::<AdamWConfig>();
    defaults_are_real::<Decay>();
    defaults_are_real::<EmaConfig>();
    defaults_are_real::<TrainConfig>();
    defaults_are_real::<stein::Grid>();
}

const EXPERIMENT: &str = r#"
    [data]
    source = { kind = "Points-2D", shape = "Two-Moons" }
    codec = [{ kind = "Z-Score" }]
    [family]
    kind = "Diffusion"
    schedule = { kind = "VPSDE" }
    prediction = { kind = "epsilon" }
    input_scale = { kind = "None" }
    noise_input = { kind = "TIME" }
    network = { kind = "MLP" }
    objective = { levels = { kind = "uniform" }, weighting = { kind = "min-snr" } }
    [train]
    ema = { kind = "half-life" }
    rate = { decay = { kind = "none" } }
    [sample]
    sampler = { kind = "PC", predictor = { kind = "Euler" }, corrector = "Batch-Langevin" }
    grid = { spacing = { kind = "LogSNR" } }
"#;

#[test]
fn names_people_type_are_ours_in_experiments() {
    let said = Experiment::parse(EXPERIMENT, &["sample.sampler.predictor=k_euler".into()]).unwrap().to_toml();
    for ours in [
        "points2d",
        "standardize",
        "diffusion",
        "vp",
        "eps",
        "none",
        "time",
        "mlp",
        "min_snr",
        "half_life",
        "constant",
        "predictor_corrector",
        "edm_euler",
        "log_snr",
    ] {
        assert!(said.contains(&format!("kind = \"{ours}\"")), "{ours} is not in {said}");
    }
    assert!(said.contains("\"moons\"") && said.contains("\"batch_langevin\""), "{said}");
}

#[test]
fn names_people_type_are_ours_on_the_command_line() {
    let (mut samplers, name) = (Vec::new(), |name: &str| Some(name.to_owned()));
    for typed in
        ["euler", "dpmpp", "dpm++", "DPM-Solver++", "dpmpp_2m", "k_euler", "dopri5", "unipc", "pc", "ddpm", "euler_a"]
    {
        samplers.push(Method::named(typed).unwrap().kind().to_owned());
    }
    let ours = "ode_euler dpm_solver_pp dpm_solver_pp dpm_solver_pp dpm_solver_pp edm_euler rk45 uni_pc predictor_corrector ancestral euler_ancestral";
    assert_eq!(samplers.join(" "), ours);
    for (typed, ours) in
        [("fashion-mnist", "fashion_mnist"), ("FMNIST", "fashion_mnist"), ("CIFAR-10", "cifar10"), ("cifar", "cifar10")]
    {
        assert_eq!(Source::named(typed).unwrap().kind(), ours);
    }
    for (typed, ours) in
        [("vpsde", "vp"), ("VE-SDE", "ve"), ("rectified_flow", "rectified"), ("flow-matching", "rectified")]
    {
        assert_eq!(AnySchedule::named(typed).unwrap().kind(), ours);
    }
    assert_eq!(AnySchedule::named("linear"), AnySchedule::named("discrete"));
    assert_eq!(Spacing::named("Karras"), Spacing::named("karras"));
    let experiment = Experiment::parse(EXPERIMENT, &[]).unwrap();
    let changes =
        Changes { sampler: name("DDPM"), grid: name("exponential"), schedule: name("VE-SDE"), ..Changes::default() };
    let changed = settings::write(&experiment.sample.unwrap().with(&changes).unwrap()).unwrap().to_string();
    for ours in ["ancestral", "geometric", "\"ve\""] {
        assert!(changed.contains(ours), "{changed}");
    }
}

#[test]
fn a_name_means_one_thing() {
    let mut kinds: Vec<&str> = Vec::new();
    for (kind, ..) in &Reached::by_experiments().entries {
        if !kinds.contains(kind) {
            kinds.push(kind);
        }
    }
    let reached = Reached::by_experiments().entries;
    for kind in kinds {
        let of_kind = reached.iter().filter(|(known, ..)| *known == kind);
        let all: Vec<&String> = of_kind.flat_map(|(_, _, entry)| entry.aliases.iter().chain([&entry.name])).collect();
        for (i, one) in all.iter().enumerate() {
            let twice = all[..i].iter().any(|other| names::same(one, other));
            assert!(!twice, "{one} of {kind} is there twice");
        }
    }
}

#[test]
fn every_alias_is_read() {
    fn aliases_are_read<T: Explain + DeserializeOwned + Serialize>() {
        let Form::Choice(choice) = T::form() else { panic!("a choice has aliases") };
        for entry in (choice.entries)() {
            for alias in
                entry.aliases.iter().flat_map(|alias| [alias.clone(), alias.to_uppercase(), alias.replace('_', "-")])
            {
                match settings::read::<T>(Table::from_iter([("kind".to_owned(), alias.clone().into())]).into()) {
                    Ok(read) => assert_eq!(settings::write(&read).unwrap()["kind"].as_str(), Some(entry.name.as_str())),
                    Err(error) => assert!(error.to_string().contains("is missing"), "{alias}: {error}"),
                }
            }
        }
    }
    aliases_are_read::<AnyFamily>();
    aliases_are_read::<AnySchedule>();
    aliases_are_read::<AnyWrapper>();
    aliases_are_read::<AnyCodecConfig>();
    aliases_are_read::<NetworkConfig>();
    aliases_are_read::<Source>();
    aliases_are_read::<Method>();
    aliases_are_read::<Spacing>();
    aliases_are_read::<LevelList>();
    aliases_are_read::<Prediction>();
    aliases_are_read::<LevelDistribution>();
    aliases_are_read::<Weighting>();
    aliases_are_read::<MapForm>();
    aliases_are_read::<AnyMapObjective>();
    aliases_are_read::<Target>();
    aliases_are_read::<Metric>();
    aliases_are_read::<PairWeighting>();
    aliases_are_read::<Shrink>();
    aliases_are_read::<Decay>();
    aliases_are_read::<EmaConfig>();
}
