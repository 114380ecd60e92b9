//! Files of `torch.save`, read without running anything.
//!
//! Such a file is a pickle, a program for a small stack machine, and the bytes of tensors beside it: in a zip archive (PyTorch
//! 1.6 and later) or after the pickle (before). This reader knows the instructions that build values and the few functions that
//! rebuild tensors, as data; any other function a file asks for is refused by name. Dictionaries keep their order, on which
//! lists of averaged parameters rely.
//! Format: <https://docs.python.org/3/library/pickletools.html>.

mod machine;
mod storage;
mod torch;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use burn::tensor::TensorData;
use stein::{Result, ensure, names::short};

use self::machine::{Item, Machine, Object};
use crate::files::fault;

/// A value of a file.
#[derive(Debug, Clone)]
pub enum Value {
    /// `None`, or something of no use here: a device, a random state.
    None,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A string, or bytes that are one.
    Text(Arc<str>),
    /// A list or a tuple.
    List(Vec<Value>),
    /// A dictionary or the fields of an object, in order.
    Dict(Vec<(Value, Value)>),
    /// A tensor.
    Tensor(Box<TensorData>),
}

impl Value {
    /// The value of a dictionary under a string.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| matches!(name, Self::Text(name) if **name == *key)).map(|(_, value)| value)
    }

    /// The tensors of a dictionary, in order.
    pub fn tensors(&self) -> Vec<(&str, &TensorData)> {
        let Self::Dict(entries) = self else { return Vec::new() };
        let pair = |entry| match entry {
            &(Self::Text(ref name), Self::Tensor(ref data)) => Some((&name[..], &**data)),
            _ => None,
        };
        entries.iter().filter_map(pair).collect()
    }
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, is no file of `torch.save`, is cut short or inconsistent, or asks for a function that is not one
/// of those that rebuild tensors.
pub fn read(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|error| fault(format!("cannot read {}: {error}", path.display())))?;
    parse(file).map_err(|error| error.at(path.display()))
}

/// Reads a file's content.
///
/// # Errors
/// As [`read`].
pub fn parse(mut file: impl Read + Seek) -> Result<Value> {
    let mut start = [0; 4];
    let count = file.read(&mut start).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    if start[..count] == *b"PK\x03\x04" {
        return archive(file);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    legacy(&bytes)
}

fn unreadable(error: std::io::Error) -> stein::Error {
    fault(format!("cannot be read: {error}"))
}

fn cut_short() -> stein::Error {
    fault("is cut short: copy or download it again")
}

/// The largest pickle read from an archive, without the tensors: those of the largest published networks have a few megabytes.
const LARGEST: u64 = 1 << 26;
/// How many times its size an archive may be unpacked to, and what every one may: `torch.save` packs nothing.
const MOST_UNPACKED: u64 = 8;
const UNPACKED: u64 = 1 << 20;

fn archive(mut file: impl Read + Seek) -> Result<Value> {
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let mut left = length.saturating_mul(MOST_UNPACKED).saturating_add(UNPACKED);
    let damaged = |error: zip::result::ZipError| fault(format!("is a damaged archive: {error}"));
    // Such a file starts with the archive; looking for where it starts, as the reader does for others, can find another start.
    let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
    let mut archive = zip::ZipArchive::with_config(config, file).map_err(damaged)?;
    let name = {
        let mut names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        names.find(|name| name.ends_with("/data.pkl") || name == "data.pkl")
    };
    let name = name.ok_or_else(|| fault("is an archive without data.pkl: no file of torch.save"))?;
    let folder = name[..name.len() - "data.pkl".len()].to_owned();
    let program = content(&mut archive, &name, LARGEST.min(left))?;
    left -= program.len() as u64;
    let mut machine = Machine::new(&program);
    let root = machine.run()?;
    let mut storages = BTreeMap::new();
    for storage in &machine.storages {
        let bytes = storage.bytes()?;
        left = left.checked_sub(bytes as u64).ok_or_else(|| {
            fault(format!("is {length} bytes and would be unpacked to more than {MOST_UNPACKED} times as many: it is no checkpoint"))
        })?;
        let content = content(&mut archive, &format!("{folder}data/{}", storage.key), bytes as u64)?;
        ensure!(
            Kind::File,
            content.len() == bytes,
            "has {} bytes of storage {} instead of {bytes}",
            content.len(),
            storage.key
        );
        storages.insert(Arc::clone(&storage.key), content);
    }
    machine.value(root, &|key| storages.get(key).map(|bytes| &bytes[..]))
}

fn content(archive: &mut zip::ZipArchive<impl Read + Seek>, name: &str, most: u64) -> Result<Vec<u8>> {
    let entry =
        archive.by_name(name).map_err(|error| fault(format!("lacks {}, or it is damaged: {error}", short(name))))?;
    ensure!(
        Kind::File,
        entry.size() <= most,
        "has {} bytes of {}, more than the {most} there can be",
        entry.size(),
        short(name)
    );
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The number a file of before PyTorch 1.6 starts with.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

fn legacy(bytes: &[u8]) -> Result<Value> {
    let foreign = || fault("is no file of torch.save: it is neither a zip archive nor a pickle with PyTorch's number");
    let mut machine = Machine::new(bytes);
    let magic = machine.run().map_err(|_| foreign())?;
    ensure!(Kind::File, matches!(magic, Item::Long(ref digits) if **digits == MAGIC), "{}", foreign());
    machine.run()?;
    machine.run()?;
    let root = machine.run()?;
    let (storages, known) = (machine.storages.clone(), machine.known.clone());
    let Item::Object(keys) = machine.run()? else { return Err(foreign()) };
    let Some(Object::List(keys)) = machine.objects.get(keys) else { return Err(foreign()) };
    let keys: Vec<Arc<str>> = keys.iter().filter_map(Item::text).collect();
    let mut found = BTreeMap::new();
    for key in keys {
        let storage = known.get(&key).map(|at| &storages[*at]);
        let storage = storage.ok_or_else(|| fault(format!("has a storage {} that no tensor uses", short(&key))))?;
        let count = i64::from_le_bytes(machine.eight()?);
        ensure!(
            Kind::File,
            count == storage.count as i64,
            "has {count} numbers of storage {} instead of {}",
            short(&key),
            storage.count
        );
        found.insert(key, machine.take(storage.bytes()?)?);
    }
    machine.value(root, &|key| found.get(key).copied())
}
