//! Models that are told texts, and models of latents: trained on a few pictures of shapes, resumed, sampled and edited.

use std::path::Path;

use stein::{AnySampler, Ddim, Device, Grid, Kind, Spacing, guidance::ClassifierFree};
use stein_run::{
    Changes, Classes, EditOptions, Experiment, ImportOptions, Method, Model, SampleConfig, Silent, Start, TrainOptions,
    arrays::NpyFile, draw, draw_prompts, edit, export, import, prepare, train,
};

use crate::latent_diffusion::write_checkpoint;

/// Pictures with their captions, a network of a few thousand weights, and the transformer that reads.
const TOLD: &str = r#"
    [data]
    source = { kind = "shapes", size = 32, count = 40 }
    codec = [{ kind = "symmetric" }]
    captions = true
    [family]
    kind = "diffusion"
    schedule = { kind = "edm" }
    prediction = { kind = "edm", sigma_data = 0.5 }
    input_scale = { kind = "unit_variance", sigma_data = 0.5 }
    noise_input = { kind = "quarter_log_noise" }
    text = { width = 8, middle = 16, heads = 2, blocks = 1 }
    network = { kind = "unet2d_condition", inputs = 3, outputs = 3, context = 8, channels = [4, 8], blocks = 1, attention = [1], heads = [1, 2], layers = [1, 1], groups = 2 }
    objective = { levels = { kind = "log_normal" }, weighting = { kind = "unit" } }
    label_dropout = 0.2
    [train]
    steps = 6
    batch = 4
    rate = { rate = 1e-2 }
    log_every = 1
    checkpoint_every = 3
    [sample]
    sampler = { kind = "heun" }
    grid = { spacing = { kind = "karras" }, steps = 3 }
    batch = 4
"#;

fn options(out: &Path, start: Start) -> TrainOptions {
    TrainOptions { out: out.to_owned(), start, data_dir: None, device: "cpu".to_owned() }
}

fn trained(toml: &str, settings: &[&str], out: &Path) -> stein::Result<Model> {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let experiment = Experiment::parse(toml, &settings)?;
    let options = options(out, Start::New);
    train(prepare(&experiment, &options)?, &mut Silent)?;
    Model::open(out, &Device::flex())
}

fn told(model: &Model, texts: &[&str], config: &SampleConfig, n: usize) -> stein::Result<Vec<f32>> {
    let texts = Classes::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
    draw(model, n, 1, &texts, config, &mut Silent).map(|drawn| drawn.values)
}

#[test]
fn a_model_is_told_texts_and_says_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(TOLD, &[], &folder.path().join("run")).unwrap();
    let texts = model.subject.text.as_ref().unwrap();
    assert_eq!(texts.examples.len(), 40);
    let (one, other) = ("two red squares above a blue circle", "a green cross");
    let both = told(&model, &[one, other], &model.sample, 4).unwrap();
    let dim = model.subject.dim();
    // Each is told to half of the samples, which are the same however many there are in a batch, but for the order of sums.
    let small = SampleConfig { batch: 1, ..model.sample.clone() };
    let alone = told(&model, &[one, other], &small, 4).unwrap();
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close(&both, &alone));
    let first = told(&model, &[one], &model.sample, 2).unwrap();
    assert!(close(&both[..2 * dim], &first));
    let same_noise = told(&model, &[other], &model.sample, 2).unwrap();
    assert!(!close(&first, &same_noise), "a text makes a difference");
    // Unless asked otherwise samples are told captions of the data.
    let drawn = draw(&model, 40, 1, &Classes::Default, &model.sample, &mut Silent).unwrap();
    assert_eq!(drawn.summary.texts, texts.examples);

    let with = |guidance, negative: Option<&str>| {
        let negative = negative.map(str::to_owned);
        model.sample.with(&Changes { guidance, negative, ..Changes::default() })
    };
    let guided = told(&model, &[one], &with(Some(3.0), None).unwrap(), 2).unwrap();
    let away = told(&model, &[one], &with(Some(3.0), Some(other)).unwrap(), 2).unwrap();
    assert!(!close(&first, &guided) && !close(&guided, &away));
    // Away from the text itself there is nothing to go.
    let nowhere = told(&model, &[one], &with(Some(3.0), Some(one)).unwrap(), 2).unwrap();
    assert!(close(&first, &nowhere));
    assert!(with(None, Some(other)).unwrap_err().to_string().contains("give --guidance"));

    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, format!("{one}\n\n{other}\n")).unwrap();
    let out = folder.path().join("out");
    let output = (&*out).into();
    assert_eq!(draw_prompts(&prompts, &output, &model, 1, 0, &model.sample, &mut Silent).unwrap(), 2);
    assert!(out.join("0001.png").is_file() && out.join("0002.png.json").is_file());
    std::fs::write(&prompts, "\n").unwrap();
    let error = draw_prompts(&prompts, &output, &model, 1, 0, &model.sample, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("write one in every line"), "{error}");

    let options = |prompt: Option<&str>| EditOptions {
        prompt: prompt.map(str::to_owned),
        inputs: Some(2),
        strength: 0.7,
        ..EditOptions::new("shapes")
    };
    let [edited, otherwise] = [one, other].map(|text| edit(&model, &options(Some(text)), &mut Silent).unwrap().values);
    assert!(edited.len() == 2 * dim && !close(&edited, &otherwise));
}

#[test]
fn texts_come_back_with_a_run_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = (folder.path().join("whole"), folder.path().join("part"));
    let whole = trained(TOLD, &[], &whole).unwrap();
    trained(TOLD, &[], &part).unwrap();
    let experiment = Experiment::parse(TOLD, &[]).unwrap();
    train(prepare(&experiment, &options(&part, Start::ResumeFrom(3))).unwrap(), &mut Silent).unwrap();
    let resumed = Model::open(&part, &Device::flex()).unwrap();
    assert_eq!(resumed.subject, whole.subject);
    let [a, b] = [&whole, &resumed].map(|model| told(model, &["a red circle"], &model.sample, 2).unwrap());
    assert_eq!(a, b, "a run that was stopped is the same run");
}

#[test]
fn what_does_not_go_with_texts_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: &[&str], part: &str| {
        let error = trained(TOLD, settings, &folder.path().join("refused")).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&["data.captions=false"], "the data have none");
    refused(&["data.source.kind=\"digits\""], "does not have");
    refused(&["family.text.skipped=1"], "leave fewer out");
    refused(&["family.text.width=10", "family.text.heads=2"], "10");
    let unread = TOLD.replace("text = { width = 8, middle = 16, heads = 2, blocks = 1 }", "");
    let experiment = Experiment::parse(&unread, &[]).unwrap();
    let error = prepare(&experiment, &options(&folder.path().join("unread"), Start::New)).err().unwrap();
    assert!(error.to_string().contains("nothing that reads them"), "{error}");

    let plain =
        TOLD.replace("captions = true", "").replace("text = { width = 8, middle = 16, heads = 2, blocks = 1 }", "");
    let plain = plain.replace("label_dropout = 0.2", "");
    let start = plain.find("network =").unwrap();
    let end = start + plain[start..].find('\n').unwrap();
    let plain =
        format!("{}network = {{ kind = \"unet\", channels = 4, multipliers = [1] }}{}", &plain[..start], &plain[end..]);
    let model = trained(&plain, &[], &folder.path().join("plain")).unwrap();
    let error = told(&model, &["a cat"], &model.sample, 1).unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("reads no texts"), "{error}");
}

#[test]
fn samples_begin_with_the_states_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(TOLD, &[], &folder.path().join("run")).unwrap();
    let start = folder.path().join("start.npy");
    let mut file = NpyFile::new(&start, &[2, 32, 32, 3]).unwrap();
    let states: Vec<f32> = (0..2 * 32 * 32 * 3).map(|i| 80.0 * ((i as f32) * 0.37).sin()).collect();
    file.write(&states).unwrap();
    file.finish().unwrap();
    let started = model.clone().starting_with(&start).unwrap();
    let drawn = |model: &Model, n, seed| {
        draw(model, n, seed, &Classes::Texts(vec!["a red circle".to_owned()]), &model.sample, &mut Silent)
    };
    let [one, other] = [0, 1].map(|seed| drawn(&started, 2, seed).unwrap());
    // The sampler adds no noise: the seed has nothing to say.
    assert_eq!(one.values, other.values);
    assert_eq!(one.summary.start.as_deref(), Some(&*start));
    assert_ne!(one.values, drawn(&model, 2, 0).unwrap().values);
    let error = drawn(&started, 3, 0).err().unwrap().to_string();
    assert!(error.contains("2 states to start from, and 3 samples"), "{error}");
    let mut file = NpyFile::new(folder.path().join("other.npy"), &[2, 8]).unwrap();
    file.write(&[0.0f32; 16]).unwrap();
    file.finish().unwrap();
    let error = model.starting_with(&folder.path().join("other.npy")).err().unwrap().to_string();
    assert!(error.contains("begin with [n, 32, 32, 3]"), "{error}");
}

/// An autoencoder of the same pictures.
const CODER: &str = r#"
    [data]
    source = { kind = "shapes", size = 32, count = 40 }
    codec = [{ kind = "symmetric" }]
    [family]
    kind = "autoencoder"
    latents = { kind = "kl", channels = 2 }
    network = { channels = [4, 8], blocks = 1, groups = 2 }
    [train]
    steps = 4
    batch = 4
    rate = { rate = 1e-3 }
"#;

#[test]
fn a_trained_autoencoder_is_a_codec() {
    let folder = tempfile::tempdir().unwrap();
    let coder = folder.path().join("coder");
    trained(CODER, &[], &coder).unwrap();
    let of_latents = TOLD
        .replace(
            r#"codec = [{ kind = "symmetric" }]"#,
            &format!(r#"codec = [{{ kind = "autoencoder", model = {:?} }}]"#, coder.display()),
        )
        .replace("inputs = 3, outputs = 3", "inputs = 2, outputs = 2");
    let run = folder.path().join("latents");
    let model = trained(&of_latents, &[], &run).unwrap();
    assert_eq!(model.subject.state_shape().unwrap(), [16, 16, 2]);
    let (shape, latents) = stein_data::read_array(&run.join("latents.npy")).unwrap();
    assert_eq!(shape, [40, 16 * 16 * 2]);
    let mean = latents.iter().sum::<f64>() / latents.len() as f64;
    let square = latents.iter().map(|x| x * x).sum::<f64>() / latents.len() as f64;
    // Of the same forty pictures, exactly but for which of their latents were drawn: 20,480 numbers, of which a hundredth is 1.4 deviations.
    assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean}, {square}");
    // Some of it is the difference between places, which is none of the variance of a place.
    assert!((0.1..1.05).contains(&model.subject.variance), "{}", model.subject.variance);
    // The checkpoint has the autoencoder: the run it came from is not needed to sample.
    std::fs::remove_dir_all(&coder).unwrap();
    let model = Model::open(&run, &Device::flex()).unwrap();
    let values = told(&model, &["a red circle"], &model.sample, 3).unwrap();
    assert!(values.len() == 3 * 32 * 32 * 3 && values.iter().all(|x| (0.0..=1.0).contains(x)));

    let refused = |settings: &[&str], part: &str| {
        let error = trained(&of_latents, settings, &folder.path().join("refused")).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[], "there is no model at");
    let coder = folder.path().join("coder");
    trained(CODER, &["data.source.size=64"], &coder).unwrap();
    refused(&[], "is an autoencoder of shapes");
    let model = format!("data.codec=[{{kind=\"autoencoder\", model={:?}}}]", run.display());
    refused(&[&model], "a model of the family diffusion, and an autoencoder is needed");
    let model = format!("data.codec=[{{kind=\"symmetric\"}}, {{kind=\"autoencoder\", model={:?}}}]", coder.display());
    refused(&[&model], "stands alone");
}

/// A checkpoint of latent diffusion in one file: it is told classes, guided unless asked otherwise, and sampled by DDIM.
#[test]
fn a_checkpoint_of_latent_diffusion_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    let file = folder.path().join("ldm.safetensors");
    let options = ImportOptions {
        source: folder.path().join("weights.safetensors"),
        config: Some(folder.path().join("config.json")),
        output: Some(file.clone()),
        check: Some(folder.path().to_owned()),
        ..ImportOptions::default()
    };
    let (report, passed) = import(&options).unwrap();
    assert!(passed && report.contains("LatentDiffusion") && report.contains("ddim_eta1: latents"), "{report}");

    let model = Model::open(&file, &Device::flex()).unwrap();
    assert_eq!((model.subject.state_shape().unwrap(), model.subject.classes.len()), (vec![8, 8, 3], 10));
    let grid = Grid { spacing: Spacing::Leading { offset: 1 }, steps: 50, clean: false, ..Grid::default() };
    assert_eq!(model.sample.grid, grid);
    assert_eq!(model.sample.sampler, Method::from(AnySampler::from(Ddim::default())));
    assert_eq!(model.sample.wrap, [ClassifierFree { scale: 3.0.into() }.into()]);
    let config = model.sample.with(&Changes { steps: Some(4), ..Changes::default() }).unwrap();
    let of = |class| draw(&model, 2, 0, &class, &config, &mut Silent).unwrap().values;
    let [third, fourth] = ["3", "4"].map(|name| of(Classes::Named(name.to_owned())));
    assert!(third.len() == 2 * 16 * 16 * 3 && third.iter().all(|x| (0.0..=1.0).contains(x)));
    assert_ne!(third, fourth);
    let refusal = export(&file, &folder.path().join("back.safetensors"), false).unwrap_err().to_string();
    assert!(refusal.contains("is the pipeline LatentDiffusion, whose parts are not written back"), "{refusal}");
}

/// A pipeline in one file: it is told texts, guided unless asked otherwise, and its pictures come out of its autoencoder.
#[test]
fn a_pipeline_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stein-nn/tests/data/stable_diffusion");
    let file = folder.path().join("sd.safetensors");
    let options = ImportOptions {
        source: pipeline.clone(),
        output: Some(file.clone()),
        check: Some(pipeline),
        ..ImportOptions::default()
    };
    let (report, passed) = import(&options).unwrap();
    assert!(passed && report.contains("StableDiffusionPipeline") && report.contains("zero_snr_rescaled: decoded"));

    let model = Model::open(&file, &Device::flex()).unwrap();
    assert_eq!(model.subject.state_shape().unwrap(), [8, 8, 4]);
    let config = model.sample.with(&Changes { steps: Some(3), ..Changes::default() }).unwrap();
    let [cat, dog] = ["a photo of a cat", "a dog"].map(|text| told(&model, &[text], &config, 2).unwrap());
    assert!(cat.len() == 2 * 16 * 16 * 3 && cat.iter().all(|x| (0.0..=1.0).contains(x)));
    assert_ne!(cat, dog);
    let bare = draw(&model, 1, 0, &Classes::Default, &config, &mut Silent).err().unwrap().to_string();
    assert!(bare.contains("give one (--class, --prompt), or no guidance (--guidance 1)"), "{bare}");
    let unguided = model.sample.with(&Changes { steps: Some(3), guidance: Some(1.0), ..Changes::default() }).unwrap();
    assert!(draw(&model, 1, 0, &Classes::Default, &unguided, &mut Silent).is_ok());

    let photo = folder.path().join("photo.npy");
    let mut array = NpyFile::new(&photo, &[1, 16, 16, 3]).unwrap();
    array.write(&cat[..16 * 16 * 3]).unwrap();
    array.finish().unwrap();
    let sampling = Changes { steps: Some(10), ..Changes::default() };
    let options =
        EditOptions { prompt: Some("a dog".to_owned()), sampling, ..EditOptions::new(photo.to_string_lossy()) };
    let edited = edit(&model, &options, &mut Silent).unwrap();
    assert!(edited.values.len() == 16 * 16 * 3 && edited.values != edited.before);
}
