//! Every number of an experiment at its extremes: a sentence, or a run that can begin.

use stein_nn::Checkpoint;
use stein_run::{Classes, Experiment, Model, Plan, RunDir, prepare};
use toml::{Table, Value};

use super::{TINY, options};

const WHOLE: [i64; 9] = [-1, 0, 1, 7, 100_000, 1 << 20, 1 << 31, 1 << 32, i64::MAX];
const REAL: [f64; 9] = [0.0, -1.0, 1e-300, 0.5, 1e30, 1e308, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];

/// The value with each number at each of its extremes and each list empty, and the path of what was changed.
fn extremes(path: &str, value: &Value, all: &mut Vec<(String, Value)>) {
    match value {
        Value::Integer(_) => all.extend(WHOLE.map(|number| (path.to_owned(), Value::Integer(number)))),
        Value::Float(_) => all.extend(REAL.map(|number| (path.to_owned(), Value::Float(number)))),
        Value::Array(items) => {
            all.push((path.to_owned(), Value::Array(Vec::new())));
            if let Some(first @ (Value::Integer(_) | Value::Float(_))) = items.first() {
                let mut changed = Vec::new();
                extremes(path, first, &mut changed);
                all.extend(changed.into_iter().map(|(path, item)| (path, Value::Array(vec![item; items.len()]))));
            }
        }
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| extremes(&format!("{path}.{key}"), value, all));
        }
        _ => {}
    }
}

/// `--set` settings for everything of an experiment but what is inside a list of tables.
fn settings(experiment: &Experiment) -> Vec<String> {
    let table: Table = experiment.to_toml().parse().unwrap();
    let mut all = Vec::new();
    extremes("", &Value::Table(table), &mut all);
    all.into_iter().map(|(path, value)| format!("{}={value}", path.trim_start_matches('.'))).collect()
}

const DISCRETE: &[&str] = &[
    "family.schedule={kind=\"discrete\", levels={kind=\"linear\", first=0.0001, last=0.02, count=100}}",
    "family.prediction={kind=\"eps\"}",
    "family.input_scale={kind=\"none\"}",
    "family.noise_input={kind=\"level\", factor=2.0}",
    "family.objective={levels={kind=\"discrete_uniform\"}, weighting={kind=\"min_snr\", gamma=5.0}}",
    "family.label_dropout=0.1",
    "sample.sampler={kind=\"predictor_corrector\", steps=2, snr=0.1}",
    "sample.wrap=[{kind=\"classifier_free\", scale=2.0}]",
    "train.ema={kind=\"decay\", decay=0.99}",
    "train.rate={rate=0.01, warmup=3, decay={kind=\"cosine\", steps=100, floor=0.1}}",
];

const OTHERS: &[&[&str]] = &[
    &[],
    DISCRETE,
    &[
        "family.schedule={kind=\"ve\", sigma_min=0.01, sigma_max=10.0}",
        "family.objective={levels={kind=\"importance\", t_min=0.01}, weighting={kind=\"edm\", sigma_data=0.5}}",
        "sample.sampler={kind=\"langevin\", steps=2, epsilon=0.01}",
        "sample.grid={spacing={kind=\"uniform\"}, steps=5, start=0.9, end=0.1}",
        "data.codec=[]",
    ],
    &["family.schedule={kind=\"vp\"}", "sample.sampler={kind=\"rk45\"}"],
    &[
        "family.schedule={kind=\"cosine\"}",
        "family.noise_input={kind=\"time\"}",
        "sample.sampler={kind=\"dpm_solver_pp\"}",
    ],
];

#[test]
fn every_number_at_its_extremes_is_a_sentence_or_a_run_that_can_begin() {
    let folder = tempfile::tempdir().unwrap();
    let (mut begun, mut refused) = (0, 0);
    for others in OTHERS {
        let others: Vec<String> = others.iter().map(|setting| (*setting).to_owned()).collect();
        let experiment = Experiment::parse(TINY, &others).unwrap();
        for setting in settings(&experiment) {
            let with: Vec<String> = others.iter().cloned().chain([setting.clone()]).collect();
            let sentence = match Experiment::parse(TINY, &with) {
                Err(error) => error.to_string(),
                // Only the data, the network and the batch have sizes that show when a run begins.
                Ok(_) if !["data", "family.network", "train"].iter().any(|part| setting.starts_with(part)) => continue,
                Ok(experiment) => {
                    let out = folder.path().join(format!("{begun}"));
                    match prepare(&experiment, &options(out.clone(), false)) {
                        Err(error) => error.to_string(),
                        Ok(_) => {
                            begun += 1;
                            let _ = std::fs::remove_dir_all(out);
                            continue;
                        }
                    }
                }
            };
            refused += 1;
            assert!(sentence.len() < 500 && !sentence.contains('\n'), "{setting}: {sentence}");
        }
    }
    assert!(begun > 30 && refused > 300, "{begun} begun, {refused} refused");
}

#[test]
fn no_number_is_infinite_where_that_is_not_said_to_mean_something() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = [
        "train.ema.ramp",
        "sample.sampler.churn.s_max",
        "sample.sampler.churn.s_min",
        "sample.sampler.rtol",
        "sample.sampler.atol",
    ];
    for others in OTHERS {
        let others: Vec<String> = others.iter().map(|setting| (*setting).to_owned()).collect();
        let experiment = Experiment::parse(TINY, &others).unwrap();
        for setting in
            settings(&experiment).into_iter().filter(|it| ["inf", "-inf", "nan"].iter().any(|end| it.ends_with(end)))
        {
            let with: Vec<String> = others.iter().cloned().chain([setting.clone()]).collect();
            let (path, value) = setting.split_once('=').unwrap();
            let begun = Experiment::parse(TINY, &with)
                .and_then(|experiment| prepare(&experiment, &options(folder.path().join(&setting), false)).map(|_| ()));
            assert!(begun.is_err() || (allowed.contains(&path) && value != "nan"), "{setting} was taken");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for (settings, sentence) in [
        (&["family.network.hidden=1000000"][..], "this network needs "),
        (&["family.network.embedding_dim=1000000"], "this network needs "),
        (&["family.network.blocks=100000"], "more than 65536 tensors"),
        (&["train.batch=1000000000", "train.accumulate=1"], "training with 1000000000 examples at a time"),
        (&["data.source.count=1000000000000"], "points2d of count = 1000000000000 needs "),
        (&["sample.batch=1000000001"], "sample.batch is 1000000001"),
    ] {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let experiment = Experiment::parse(TINY, &settings);
        let refused = experiment.and_then(|experiment| prepare(&experiment, &options(folder.path().join("a"), false)));
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(sentence), "{settings:?}: {said}");
    }
}

#[test]
fn every_number_a_checkpoint_says_of_itself_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = Experiment::parse(TINY, &[]).unwrap();
    prepare(&experiment, &options(folder.path().join("run"), false)).unwrap();
    let run = RunDir::open(&folder.path().join("run")).unwrap();
    let checkpoint = Checkpoint::read(&run.latest().unwrap()).unwrap();
    let model: Table = checkpoint.metadata["model"].parse().unwrap();
    let path = folder.path().join("a.safetensors");
    let open = |model: &Table| {
        let mut checkpoint = checkpoint.clone();
        checkpoint.metadata.insert("model".to_owned(), model.to_string());
        checkpoint.write(&path).unwrap();
        Model::open(path.to_str().unwrap(), &stein_run::device("cpu").unwrap())
    };
    let mut all = Vec::new();
    extremes("", &Value::Table(model.clone()), &mut all);
    let mut refused = 0;
    for (place, value) in all {
        let mut changed = model.clone();
        let mut keys = place.trim_start_matches('.').split('.');
        let first = keys.next().unwrap();
        let mut here = &mut changed[first];
        for key in keys {
            here = &mut here[key];
        }
        *here = value.clone();
        let plan = open(&changed)
            .and_then(|model| Plan::new(&model, 1, 0, &Classes::Default, &model.sample, false).map(|_| ()));
        if let Err(error) = plan {
            refused += 1;
            assert!(error.to_string().len() < 1000, "{error}");
        }
    }
    assert!(refused > 60, "{refused} refused");
    // What is in a list of tables is not reached above.
    for codec in [
        "kind = \"standardize\"\nmean = []\nscale = []",
        "kind = \"one_hot\"\ndim = 18446744073709551615\ncolumns = []\nclasses = []",
        "kind = \"one_hot\"\ndim = 2\ncolumns = [0]\nclasses = [9223372036854775807]",
        "kind = \"quantile\"\ncolumns = []",
        "kind = \"affine\"\nscale = 0.0",
        "kind = \"affine\"\nscale = inf",
        "kind = \"logit\"\nmargin = 0.7",
        "kind = \"dequantize\"\nlevels = 0",
    ] {
        let mut changed = model.clone();
        let codec = codec.parse::<Table>().map(Value::Table).unwrap_or(Value::Integer(1));
        changed["subject"]["codec"] = Value::Array(vec![codec]);
        assert!(open(&changed).is_err(), "{changed}");
    }
    for shape in ["kind = \"row\"\ndim = 1099511627776", "kind = \"row\"\ndim = 0", "kind = \"row\"\ndim = 3"] {
        let mut changed = model.clone();
        changed["subject"]["shape"] = Value::Table(shape.parse().unwrap());
        changed["subject"]["codec"] = Value::Array(Vec::new());
        assert!(open(&changed).is_err(), "{changed}");
    }
}
