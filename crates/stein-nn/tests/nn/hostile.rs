//! Small files that ask for much, and damaged ones: of `torch.save`, safetensors, and configs.

use std::{
    fs,
    io::{Cursor, Write},
    sync::Arc,
};

use burn::tensor::TensorData;
use serde_json::Value as Json;
use stein::{Key, Kind, Purpose, random::below};
use stein_nn::{
    Checkpoint, LearnerState, Tensors, Weights,
    import::{
        Kind as Kinds, Published, Setting, Source,
        pickle::{Value, parse},
    },
    read_tensors,
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// An archive of `torch.save` with this program and these numbers.
fn archive(program: &[u8], storages: &[(&str, &[u8])], packed: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(packed);
    let program = ("archive/data.pkl".to_owned(), program);
    let storages = storages.iter().map(|(key, bytes)| (format!("archive/data/{key}"), *bytes));
    for (name, bytes) in std::iter::once(program).chain(storages) {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn text(of: &str) -> Vec<u8> {
    [b"X".as_slice(), &(of.len() as u32).to_le_bytes(), of.as_bytes()].concat()
}

fn whole(number: u32) -> Vec<u8> {
    [b"J".as_slice(), &number.to_le_bytes()].concat()
}

/// A vector of a storage of single-precision numbers.
fn tensor(key: &str, count: u32) -> Vec<u8> {
    let storage = [&text("storage")[..], b"ctorch\nFloatStorage\n", &text(key), &text("cpu"), &whole(count)].concat();
    let shape = [&whole(count)[..], b"\x85K\x01\x85"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(), &storage, b"tQK\x00", &shape, b"\x89}tR"].concat()
}

fn refuse(file: Vec<u8>) -> String {
    let error = parse(Cursor::new(file)).unwrap_err();
    assert_eq!(error.kind(), Kind::File, "{error}");
    error.to_string()
}

fn pickled(program: &[&[u8]]) -> Vec<u8> {
    archive(&program.concat(), &[], CompressionMethod::Stored)
}

#[test]
fn a_text_that_is_recalled_often_is_there_once() {
    let recalled = b"h\x00".repeat(250_000);
    let file = pickled(&[b"](", &text(&"x".repeat(500_000)), b"q\x00", &recalled, b"e."]);
    let Value::List(items) = parse(Cursor::new(file)).unwrap() else { panic!("a list was saved") };
    let (Value::Text(first), Value::Text(last)) = (&items[0], &items[250_000]) else { panic!("of texts") };
    assert!(Arc::ptr_eq(first, last));
}

#[test]
fn a_tensor_of_many_names_is_no_checkpoint() {
    let numbers = [0; 4 * 10_000];
    let named = |times: usize| {
        let names: Vec<u8> = (0..times).flat_map(|i| [text(&i.to_string()), b"h\x01".to_vec()].concat()).collect();
        let program = [&tensor("0", 10_000)[..], b"q\x010}(", &names, b"u."].concat();
        archive(&program, &[("0", &numbers)], CompressionMethod::Stored)
    };
    assert_eq!(parse(Cursor::new(named(2))).unwrap().tensors().len(), 2, "weights may be tied");
    assert!(refuse(named(3000)).contains("repeated without end"));
}

#[test]
fn what_lies_deep_or_is_copied_without_end_is_refused() {
    let (down, up) = ([&b"}"[..], &text("a")].concat().repeat(20_000), b"s".repeat(20_000));
    assert!(refuse(pickled(&[&down, b"N", &up, b"."])).contains("nested"));
    // A list of twenty thousand pairs, made into a dictionary twenty thousand times, or the state of as many.
    let pairs = b"NN\x86".repeat(20_000);
    let often = b"h\x01h\x02R0".repeat(20_000);
    let file = pickled(&[b"ccollections\nOrderedDict\nq\x01](", &pairs, b"e\x85q\x02", &often, b"."]);
    assert!(refuse(file).contains("more steps"));
    let entries = b"NN".repeat(20_000);
    let file = pickled(&[b"}(", &entries, b"uq\x01", &b"}h\x01b0".repeat(20_000), b"."]);
    assert!(refuse(file).contains("more steps"));
    // Lists of two of the list before: 2^60 values of sixty objects.
    let doubled = b"q\x000](h\x00h\x00e".repeat(60);
    assert!(refuse(pickled(&[b"]", &doubled, b"."])).contains("repeated without end"));
}

#[test]
fn an_archive_that_unpacks_to_many_times_its_size_is_refused() {
    let zeros = vec![0; 4 * 25_000_000];
    let file = archive(&[&tensor("0", 25_000_000)[..], b"."].concat(), &[("0", &zeros)], CompressionMethod::Deflated);
    assert!(file.len() < 1 << 20);
    assert!(refuse(file).contains("unpacked"));
    let spaces = vec![b'N'; 100_000_000];
    assert!(refuse(archive(&spaces, &[], CompressionMethod::Deflated)).contains("data.pkl"));
}

#[test]
fn a_name_in_a_pickle_is_not_repeated_whole() {
    let long = "x".repeat(1_000_000);
    let file = pickled(&[b"c", long.as_bytes(), b"\nf\n)R."]);
    let sentence = parse(Cursor::new(file)).unwrap_err().to_string();
    assert!(sentence.len() < 300 && sentence.contains("asks to run xxx"), "{sentence}");
}

#[test]
fn safetensors_of_shapes_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let refused = |header: &str, bytes: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(vec![0; bytes]);
        fs::write(&path, file).unwrap();
        let error = read_tensors(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::File, "{header}");
        error.to_string()
    };
    let one = |shape: &str, from: usize, to: usize| {
        format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}}}")
    };
    for shape in
        ["[18446744073709551616]", "[18446744073709551615]", "[9223372036854775808,2]", "[4294967296,4294967296]"]
    {
        refused(&one(shape, 0, 4), 4);
    }
    for shape in ["[18446744073709551615,0]", "[0,4294967296,4294967296]"] {
        assert!(refused(&one(shape, 0, 0), 0).contains("it is damaged"));
    }
    refused(&one("[1]", 0, 8), 8);
    refused(&one("[1]", 4, 8), 8);
    refused(&one("[2]", 8, 0), 8);
    let both = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    refused(both, 4);
    refused(&"[".repeat(1_000_000), 0);
}

/// The value with each whole number at each of these extremes and each list empty or long.
fn extremes(value: &Json) -> Vec<Json> {
    const EXTREMES: [u64; 6] = [0, 7, 100_000, 1 << 31, 1 << 62, u64::MAX];
    match value {
        Json::Number(_) => EXTREMES.map(Json::from).into_iter().chain([Json::from(-1), Json::from(1e300)]).collect(),
        Json::Array(items) => {
            let first = items.first().cloned().unwrap_or(Json::from(1));
            let mut all = vec![Json::Array(Vec::new()), Json::Array(vec![first.clone(); 70])];
            all.extend(extremes(&first).into_iter().map(|item| Json::Array(vec![item; items.len().max(1)])));
            all
        }
        Json::Object(table) => {
            let changed = |(key, value): (&String, &Json)| {
                let with = |value| {
                    let mut table = table.clone();
                    table.insert(key.clone(), value);
                    Json::Object(table)
                };
                extremes(value).into_iter().map(with).collect::<Vec<_>>()
            };
            table.iter().flat_map(changed).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn configs_of_all_sources_at_their_extremes_are_sentences() {
    let kinds = [
        ("cm_unet", Kinds::Consistency),
        ("diffusers_autoencoder_kl", Kinds::Diffusers),
        ("diffusers_dit", Kinds::Diffusers),
        ("diffusers_unet2d_cond", Kinds::Diffusers),
        ("diffusers_unet2d_ncsnpp", Kinds::Diffusers),
        ("diffusers_vq_model", Kinds::Diffusers),
        ("edm_dhariwal_attn", Kinds::Edm),
        ("edm_song_ncsnpp", Kinds::Edm),
        ("edm_unetblock", Kinds::Edm),
        ("gd_classifier", Kinds::GuidedDiffusion),
        ("gd_unet", Kinds::GuidedDiffusion),
        ("ncsn", Kinds::Ncsn),
        ("ncsnv2", Kinds::NcsnV2),
        ("score_sde_ddpm", Kinds::ScoreSde),
        ("score_sde_ncsnpp_residual", Kinds::ScoreSde),
    ];
    for (name, kind) in kinds {
        let path = format!("{}/tests/data/formula/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let mut file: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for config in extremes(&file["config"].take()) {
            let (scheduler, weights, origin) = (None, Tensors::new(), "a formula".to_owned());
            let source = Source { kind, config, scheduler, latent: false, weights, origin, which: String::new() };
            let _ = Setting::of(&source);
            let sentence = Published::open(&source).err().map(|error| error.to_string());
            let sentence = sentence.unwrap_or_else(|| panic!("{} without weights was opened", source.config));
            assert!(sentence.len() < 2100, "{sentence}");
        }
    }
}

#[test]
fn mutated_safetensors_and_checkpoints_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let weights: Tensors =
        [("a".to_owned(), TensorData::from([1f32, 2.0])), ("b".to_owned(), TensorData::from([[3f32]]))].into();
    let state = LearnerState { weights, ..LearnerState::default() };
    let checkpoint = Checkpoint {
        learners: [("net".to_owned(), state)].into(),
        step: 3,
        metadata: [("model".to_owned(), "name = \"a\"".to_owned())].into(),
    };
    checkpoint.write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut generator = Key::new(2, Purpose::Own(0)).generator();
    for _ in 0..1000 {
        let mut damaged = whole.clone();
        for _ in 0..=below(&mut generator, 3) {
            let at = below(&mut generator, damaged.len());
            match below(&mut generator, 3) {
                0 => damaged[at] = below(&mut generator, 256) as u8,
                1 => damaged[at] = b'0' + below(&mut generator, 10) as u8,
                _ => drop(damaged.drain(at..damaged.len().min(at + 1 + below(&mut generator, 9)))),
            }
        }
        fs::write(&path, damaged).unwrap();
        let read = (
            read_tensors(&path).err(),
            Checkpoint::read(&path).err(),
            Checkpoint::read_weights(&path, Weights::Ema).err(),
        );
        for error in [read.0, read.1, read.2].into_iter().flatten() {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
