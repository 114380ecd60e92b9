//! Files of `torch.save`, read without running anything.
//!
//! Such a file is a pickle, a program for a small stack machine, and the bytes of tensors beside it: in a zip archive (PyTorch
//! 1.6 and later) or after the pickle (before). This reader knows the instructions that build values and the few functions that
//! rebuild tensors, as data; any other function a file asks for is refused by name. Dictionaries keep their order, on which
//! lists of averaged parameters rely.
//! Format: <https://docs.python.org/3/library/pickletools.html>.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read, Seek},
    path::Path,
};

use burn::tensor::{DType, TensorData};
use stein::{Error, Result, ensure};

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
    Text(String),
    /// A list or a tuple.
    List(Vec<Value>),
    /// A dictionary or the fields of an object, in order.
    Dict(Vec<(Value, Value)>),
    /// A tensor.
    Tensor(TensorData),
}

impl Value {
    /// The value of a dictionary under a string.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| matches!(name, Self::Text(name) if name == key)).map(|(_, value)| value)
    }

    /// The tensors of a dictionary, in order.
    pub fn tensors(&self) -> Vec<(&str, &TensorData)> {
        let Self::Dict(entries) = self else { return Vec::new() };
        let pair = |entry| match entry {
            &(Self::Text(ref name), Self::Tensor(ref data)) => Some((&name[..], data)),
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
    let file = File::open(path).map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
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

fn unreadable(error: std::io::Error) -> Error {
    Error::new(format!("cannot be read: {error}"))
}

fn cut_short() -> Error {
    Error::new("is cut short: copy or download it again")
}

/// The largest pickle read from an archive, without the tensors: those of the largest published networks have a few megabytes.
const LARGEST: u64 = 1 << 28;

fn archive(file: impl Read + Seek) -> Result<Value> {
    let damaged = |error: zip::result::ZipError| Error::new(format!("is a damaged archive: {error}"));
    // Such a file starts with the archive; looking for where it starts, as the reader does for others, can find the wrong place.
    let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
    let mut archive = zip::ZipArchive::with_config(config, file).map_err(damaged)?;
    let name = {
        let mut names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        names.find(|name| name.ends_with("/data.pkl") || name == "data.pkl")
    };
    let name = name.ok_or_else(|| Error::new("is an archive without data.pkl: no file of torch.save"))?;
    let folder = name[..name.len() - "data.pkl".len()].to_owned();
    let program = content(&mut archive, &name, LARGEST)?;
    let mut machine = Machine::new(&program);
    let root = machine.run()?;
    let mut storages = BTreeMap::new();
    for storage in &machine.storages {
        let bytes = storage.bytes()?;
        let content = content(&mut archive, &format!("{folder}data/{}", storage.key), bytes as u64)?;
        ensure!(content.len() == bytes, "has {} bytes of storage {} instead of {bytes}", content.len(), storage.key);
        storages.insert(storage.key.clone(), content);
    }
    machine.value(root, &|key| storages.get(key).map(|bytes| &bytes[..]))
}

fn content(archive: &mut zip::ZipArchive<impl Read + Seek>, name: &str, most: u64) -> Result<Vec<u8>> {
    let entry =
        archive.by_name(name).map_err(|error| Error::new(format!("lacks {name}, or it is damaged: {error}")))?;
    ensure!(entry.size() <= most, "has {} bytes of {name}, more than the {most} there can be", entry.size());
    let mut bytes = Vec::new();
    entry.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The number a file of before PyTorch 1.6 starts with.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

fn legacy(bytes: &[u8]) -> Result<Value> {
    let foreign =
        || Error::new("is no file of torch.save: it is neither a zip archive nor a pickle with PyTorch's number");
    let mut machine = Machine::new(bytes);
    let magic = machine.run().map_err(|_| foreign())?;
    ensure!(matches!(magic, Item::Long(ref digits) if *digits == MAGIC), "{}", foreign());
    machine.run()?;
    machine.run()?;
    let root = machine.run()?;
    let storages = machine.storages.clone();
    let Item::Object(keys) = machine.run()? else { return Err(foreign()) };
    let Some(Object::List(keys)) = machine.objects.get(keys) else { return Err(foreign()) };
    let keys: Vec<String> = keys.iter().filter_map(Item::text).collect();
    let mut found = BTreeMap::new();
    for key in keys {
        let storage = storages.iter().find(|storage| storage.key == key);
        let storage = storage.ok_or_else(|| Error::new(format!("has a storage {key} that no tensor uses")))?;
        let count = i64::from_le_bytes(machine.take(8)?.try_into().expect("eight bytes were taken"));
        ensure!(count == storage.count as i64, "has {count} numbers of storage {key} instead of {}", storage.count);
        found.insert(key, machine.take(storage.bytes()?)?);
    }
    machine.value(root, &|key| found.get(key).copied())
}

/// The numbers tensors are views of.
#[derive(Debug, Clone)]
struct Storage {
    key: String,
    kind: DType,
    count: usize,
}

impl Storage {
    fn bytes(&self) -> Result<usize> {
        let bytes = self.count.checked_mul(self.kind.size());
        bytes.ok_or_else(|| Error::new(format!("has a storage {} of {} numbers", self.key, self.count)))
    }
}

/// What is on the stack. What can still change is an object, referred to by its number.
#[derive(Debug, Clone)]
enum Item {
    None,
    Bool(bool),
    Int(i64),
    Long(Vec<u8>),
    Float(f64),
    Text(String),
    Mark,
    Function(String, String),
    Storage(usize),
    Tensor { storage: usize, offset: i64, sizes: Vec<i64>, strides: Vec<i64> },
    Object(usize),
}

impl Item {
    fn text(&self) -> Option<String> {
        if let Self::Text(text) = self { Some(text.clone()) } else { None }
    }
}

#[derive(Debug)]
enum Object {
    List(Vec<Item>),
    Dict(Vec<(Item, Item)>),
}

struct Machine<'a> {
    program: Cursor<&'a [u8]>,
    stack: Vec<Item>,
    memo: BTreeMap<u32, Item>,
    objects: Vec<Object>,
    storages: Vec<Storage>,
}

/// Functions whose result is of no use here, and what is made of them: nothing.
const HARMLESS: &[(&str, &str)] = &[
    ("torch", "device"),
    ("torch", "Size"),
    ("torch", "Generator"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("collections", "defaultdict"),
    ("__builtin__", "set"),
    ("builtins", "set"),
];

impl<'a> Machine<'a> {
    fn new(program: &'a [u8]) -> Self {
        Self {
            program: Cursor::new(program),
            stack: Vec::new(),
            memo: BTreeMap::new(),
            objects: Vec::new(),
            storages: Vec::new(),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let from = usize::try_from(self.program.position()).map_err(|_| cut_short())?;
        let to = from.checked_add(count).ok_or_else(cut_short)?;
        let bytes = self.program.get_ref().get(from..to).ok_or_else(cut_short)?;
        self.program.set_position(to as u64);
        Ok(bytes)
    }

    /// An unsigned number of some bytes, the least first.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Result<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| cut_short())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.take(1)?[0] {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
        }
    }

    fn text(&mut self, bytes: usize) -> Result<Item> {
        let count = self.length(bytes)?;
        Ok(Item::Text(String::from_utf8_lossy(self.take(count)?).into_owned()))
    }

    fn pop(&mut self) -> Result<Item> {
        self.stack.pop().ok_or_else(inconsistent)
    }

    /// All above the last mark.
    fn marked(&mut self) -> Result<Vec<Item>> {
        let mark = self.stack.iter().rposition(|item| matches!(item, Item::Mark)).ok_or_else(inconsistent)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, count: usize) -> Result<Item> {
        let from = self.stack.len().checked_sub(count).ok_or_else(inconsistent)?;
        let items = self.stack.split_off(from);
        Ok(self.object(Object::List(items)))
    }

    fn object(&mut self, object: Object) -> Item {
        self.objects.push(object);
        Item::Object(self.objects.len() - 1)
    }

    /// The items of a list or a tuple.
    fn list(&self, item: &Item) -> Result<&[Item]> {
        match item {
            Item::Object(at) => match self.objects.get(*at) {
                Some(Object::List(items)) => Ok(items),
                _ => Err(inconsistent()),
            },
            _ => Err(inconsistent()),
        }
    }

    fn append(&mut self, items: Vec<Item>) -> Result<()> {
        if let Some(Item::Object(at)) = self.stack.last()
            && let Some(Object::List(list)) = self.objects.get_mut(*at)
        {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Item>) -> Result<()> {
        ensure!(items.len().is_multiple_of(2), "{}", inconsistent());
        if let Some(Item::Object(at)) = self.stack.last()
            && let Some(Object::Dict(dict)) = self.objects.get_mut(*at)
        {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                dict.push((key, value));
            }
        }
        Ok(())
    }

    /// Runs up to the next stop.
    fn run(&mut self) -> Result<Item> {
        self.stack.clear();
        self.memo.clear();
        loop {
            let item = match self.take(1)?[0] {
                0x80 => {
                    self.take(1)?;
                    continue;
                }
                0x95 => {
                    self.take(8)?;
                    continue;
                }
                b'.' => return self.pop(),
                b'(' => Item::Mark,
                b'}' => self.object(Object::Dict(Vec::new())),
                b']' | 0x8f => self.object(Object::List(Vec::new())),
                b')' => self.object(Object::List(Vec::new())),
                b't' => {
                    let items = self.marked()?;
                    self.object(Object::List(items))
                }
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b'N' => Item::None,
                0x88 => Item::Bool(true),
                0x89 => Item::Bool(false),
                b'J' => Item::Int(i64::from(self.number(4)? as u32 as i32)),
                b'K' => Item::Int(self.number(1)? as i64),
                b'M' => Item::Int(self.number(2)? as i64),
                0x8a => {
                    let count = self.length(1)?;
                    long(self.take(count)?)
                }
                0x8b => {
                    let count = self.length(4)?;
                    long(self.take(count)?)
                }
                b'G' => Item::Float(f64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes were taken"))),
                b'X' | b'T' | b'B' => self.text(4)?,
                0x8c | b'U' | b'C' => self.text(1)?,
                0x8d | 0x8e => self.text(8)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    Item::Function(module, name)
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Item::Text(name), Item::Text(module)) => Item::Function(module, name),
                    _ => return Err(inconsistent()),
                },
                b'q' => {
                    let at = self.number(1)? as u32;
                    self.remember(at)?;
                    continue;
                }
                b'r' => {
                    let at = self.number(4)? as u32;
                    self.remember(at)?;
                    continue;
                }
                0x94 => {
                    let at = self.memo.len() as u32;
                    self.remember(at)?;
                    continue;
                }
                b'h' => {
                    let at = self.number(1)? as u32;
                    self.recall(at)?
                }
                b'j' => {
                    let at = self.number(4)? as u32;
                    self.recall(at)?
                }
                b'0' => {
                    self.pop()?;
                    continue;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                    continue;
                }
                b'e' | 0x90 => {
                    let items = self.marked()?;
                    self.append(items)?;
                    continue;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![key, value])?;
                    continue;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.insert(items)?;
                    continue;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.storage(&id)?
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(&function, &arguments)?
                }
                b'b' => {
                    // The state of an object: the fields of what became a dictionary, nothing for all else.
                    let state = self.pop()?;
                    self.build(&state);
                    continue;
                }
                other => {
                    return Err(Error::new(format!(
                        "has the pickle instruction {other:#04x}, which no state dict needs"
                    )));
                }
            };
            self.stack.push(item);
        }
    }

    fn remember(&mut self, at: u32) -> Result<()> {
        let item = self.stack.last().ok_or_else(inconsistent)?.clone();
        self.memo.insert(at, item);
        Ok(())
    }

    fn recall(&self, at: u32) -> Result<Item> {
        self.memo.get(&at).cloned().ok_or_else(inconsistent)
    }

    fn build(&mut self, state: &Item) {
        let (Some(Item::Object(to)), Item::Object(from)) = (self.stack.last(), state) else { return };
        let fields: Vec<(Item, Item)> = match self.objects.get(*from) {
            Some(Object::Dict(fields)) => fields.clone(),
            _ => return,
        };
        // `_metadata` of a state dict is a field of the dictionary object, not an entry.
        if let Some(Object::Dict(entries)) = self.objects.get_mut(*to)
            && entries.is_empty()
        {
            entries.extend(fields);
        }
    }

    fn call(&mut self, function: &Item, arguments: &Item) -> Result<Item> {
        let Item::Function(module, name) = function else {
            // Whatever was made of a harmless function before.
            return Ok(Item::None);
        };
        let module = &module[..];
        match (module, &name[..]) {
            ("collections", "OrderedDict") => {
                let entries: Vec<Item> = match self.list(arguments)? {
                    [entries] => self.list(entries)?.to_vec(),
                    _ => Vec::new(),
                };
                let mut dict = Vec::new();
                for entry in &entries {
                    let [key, value] = self.list(entry)? else { return Err(inconsistent()) };
                    dict.push((key.clone(), value.clone()));
                }
                Ok(self.object(Object::Dict(dict)))
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let [Item::Storage(storage), Item::Int(offset), sizes, strides, ..] = self.list(arguments)? else {
                    return Err(inconsistent());
                };
                let whole = |item: &Item| if let Item::Int(i) = item { Ok(*i) } else { Err(inconsistent()) };
                let numbers = |item: &Item| self.list(item)?.iter().map(whole).collect::<Result<Vec<i64>>>();
                let (sizes, strides) = (numbers(sizes)?, numbers(strides)?);
                Ok(Item::Tensor { storage: *storage, offset: *offset, sizes, strides })
            }
            ("torch._utils", "_rebuild_parameter") => match self.list(arguments)? {
                [tensor, ..] => Ok(tensor.clone()),
                [] => Err(inconsistent()),
            },
            ("argparse", "Namespace") => Ok(self.object(Object::Dict(Vec::new()))),
            _ if HARMLESS.contains(&(module, name)) => Ok(Item::None),
            _ => Err(Error::new(format!(
                "asks to run {module}.{name}, which no weights need: it is refused; save the state dict alone, or as \
                 safetensors"
            ))),
        }
    }

    fn storage(&mut self, id: &Item) -> Result<Item> {
        let (kind, key, count) = match self.list(id)? {
            [Item::Text(what), Item::Function(module, name), key, _, Item::Int(count), ..]
                if what == "storage" && module.starts_with("torch") =>
            {
                let key = match key {
                    Item::Text(key) => key.clone(),
                    Item::Int(key) => key.to_string(),
                    _ => return Err(inconsistent()),
                };
                let kind = match &name[..] {
                    "FloatStorage" => DType::F32,
                    "DoubleStorage" => DType::F64,
                    "HalfStorage" => DType::F16,
                    "BFloat16Storage" => DType::BF16,
                    "LongStorage" => DType::I64,
                    "IntStorage" => DType::I32,
                    "ShortStorage" => DType::I16,
                    "CharStorage" => DType::I8,
                    "ByteStorage" | "BoolStorage" => DType::U8,
                    other => return Err(Error::new(format!("has a {other}, which holds no weights"))),
                };
                (kind, key, usize::try_from(*count).map_err(|_| inconsistent())?)
            }
            _ => return Err(inconsistent()),
        };
        let known = self.storages.iter().position(|storage| storage.key == key);
        let at = known.unwrap_or_else(|| {
            self.storages.push(Storage { key, kind, count });
            self.storages.len() - 1
        });
        Ok(Item::Storage(at))
    }

    /// An item as a value, with the bytes of storages.
    fn value<'s>(&self, item: Item, bytes: &dyn Fn(&str) -> Option<&'s [u8]>) -> Result<Value> {
        self.nested(&item, bytes, &mut 0, 0)
    }

    fn nested<'s>(
        &self,
        item: &Item,
        bytes: &dyn Fn(&str) -> Option<&'s [u8]>,
        values: &mut usize,
        depth: usize,
    ) -> Result<Value> {
        // Lists may hold themselves, or be shared often enough to grow without end.
        *values += 1;
        ensure!(depth < DEEPEST && *values < MOST, "has values nested or repeated without end: it is no checkpoint");
        Ok(match item {
            Item::None | Item::Mark | Item::Function(..) | Item::Storage(_) | Item::Long(_) => Value::None,
            Item::Bool(x) => Value::Bool(*x),
            Item::Int(x) => Value::Int(*x),
            Item::Float(x) => Value::Float(*x),
            Item::Text(text) => Value::Text(text.clone()),
            Item::Tensor { storage, offset, sizes, strides } => {
                let storage = self.storages.get(*storage).ok_or_else(inconsistent)?;
                let bytes = bytes(&storage.key)
                    .ok_or_else(|| Error::new(format!("lacks the bytes of storage {}", storage.key)))?;
                Value::Tensor(view(storage, bytes, *offset, sizes, strides)?)
            }
            Item::Object(at) => match &self.objects[*at] {
                Object::List(items) => {
                    let items = items.iter().map(|item| self.nested(item, bytes, values, depth + 1));
                    Value::List(items.collect::<Result<_>>()?)
                }
                Object::Dict(entries) => {
                    let mut dict = Vec::with_capacity(entries.len());
                    for (key, value) in entries {
                        let key = self.nested(key, bytes, values, depth + 1)?;
                        dict.push((key, self.nested(value, bytes, values, depth + 1)?));
                    }
                    Value::Dict(dict)
                }
            },
        })
    }
}

/// How deep values lie in each other at most, and how many there are.
const DEEPEST: usize = 64;
const MOST: usize = 1 << 22;

fn inconsistent() -> Error {
    Error::new("has a pickle that is damaged, or not one of torch.save")
}

fn long(bytes: &[u8]) -> Item {
    if bytes.len() > 8 {
        return Item::Long(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let mut all = [fill; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Item::Int(i64::from_le_bytes(all))
}

/// The numbers of a view of a storage, in order.
fn view(storage: &Storage, bytes: &[u8], offset: i64, sizes: &[i64], strides: &[i64]) -> Result<TensorData> {
    let odd = || Error::new(format!("has a tensor that lies outside of its storage {}", storage.key));
    ensure!(sizes.len() == strides.len() && sizes.len() <= 8, "{}", odd());
    let natural = |numbers: &[i64]| -> Result<Vec<usize>> {
        numbers.iter().map(|x| usize::try_from(*x).map_err(|_| odd())).collect()
    };
    let (sizes, strides, offset) = (natural(sizes)?, natural(strides)?, usize::try_from(offset).map_err(|_| odd())?);
    let count = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).ok_or_else(odd)?;
    // No weights are views that repeat numbers, and a tensor is thus never larger than the file.
    ensure!(count <= storage.count, "{}", odd());
    let mut last = Some(offset);
    for (size, stride) in sizes.iter().zip(&strides) {
        last = last.and_then(|last| last.checked_add(stride.checked_mul(size.saturating_sub(1))?));
    }
    ensure!(count == 0 || last.is_some_and(|last| last < storage.count), "{}", odd());
    let wide = storage.kind.size();
    let mut values = Vec::with_capacity(count * wide);
    let mut place = vec![0; sizes.len()];
    for _ in 0..count {
        let at = offset + place.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>();
        values.extend_from_slice(&bytes[at * wide..(at + 1) * wide]);
        for axis in (0..sizes.len()).rev() {
            place[axis] += 1;
            if place[axis] < sizes[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Ok(TensorData::from_bytes_vec(values, sizes, storage.kind))
}
