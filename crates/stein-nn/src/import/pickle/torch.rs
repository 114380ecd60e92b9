//! What the programs of `torch.save` call and refer to, as data: dictionaries, tensors, and the bytes these are views of.

use std::sync::Arc;

use burn::tensor::{DType, TensorData};
use stein::{Error, Kind, Result, ensure, names::short};

use super::{
    Value,
    machine::{Item, Machine, Object, inconsistent},
    storage::Storage,
};
use crate::files::fault;

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

impl Machine<'_> {
    /// What a function returns.
    pub(super) fn result(&mut self, function: &Item, arguments: &Item) -> Result<Item> {
        let Item::Function(module, name) = function else {
            // Whatever was made of a harmless function before.
            return Ok(Item::None);
        };
        let module = &module[..];
        match (module, &name[..]) {
            ("collections", "OrderedDict") => {
                let entries = match self.list(arguments)? {
                    [entries] => self.list(entries)?,
                    _ => &[],
                };
                let pair = |entry| match self.list(entry)? {
                    [key, value] => Ok((key.clone(), value.clone())),
                    _ => Err(inconsistent()),
                };
                let dict: Vec<_> = entries.iter().map(pair).collect::<Result<_>>()?;
                self.spend(dict.len())?;
                Ok(self.object(Object::Dict(dict)))
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let [Item::Storage(storage), Item::Int(offset), sizes, strides, ..] = self.list(arguments)? else {
                    return Err(inconsistent());
                };
                let whole = |item: &Item| if let Item::Int(i) = item { Ok(*i) } else { Err(inconsistent()) };
                let numbers = |item: &Item| self.list(item)?.iter().map(whole).collect::<Result<Arc<[i64]>>>();
                let (sizes, strides) = (numbers(sizes)?, numbers(strides)?);
                let (storage, offset) = (*storage, *offset);
                self.spend(sizes.len() + strides.len())?;
                Ok(Item::Tensor { storage, offset, sizes, strides })
            }
            ("torch._utils", "_rebuild_parameter") => match self.list(arguments)? {
                [tensor, ..] => Ok(tensor.clone()),
                [] => Err(inconsistent()),
            },
            ("argparse", "Namespace") => Ok(self.object(Object::Dict(Vec::new()))),
            _ if HARMLESS.contains(&(module, name)) => Ok(Item::None),
            _ => Err(Error::of(
                Kind::Unsupported,
                format!(
                    "asks to run {}.{}, which no weights need: it is refused; save the state dict alone, or as safetensors",
                    short(module),
                    short(name)
                ),
            )),
        }
    }

    /// The storage an identifier names.
    pub(super) fn storage(&mut self, id: &Item) -> Result<Item> {
        let (kind, key, count) = match self.list(id)? {
            [Item::Text(what), Item::Function(module, name), key, _, Item::Int(count), ..]
                if &**what == "storage" && module.starts_with("torch") =>
            {
                let key = match key {
                    Item::Text(key) => key.clone(),
                    Item::Int(key) => key.to_string().into(),
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
                    other => {
                        let sentence = format!("has a {}, which holds no weights", short(other));
                        return Err(Error::of(Kind::Unsupported, sentence));
                    }
                };
                (kind, key, usize::try_from(*count).map_err(|_| inconsistent())?)
            }
            _ => return Err(inconsistent()),
        };
        let at = *self.known.entry(Arc::clone(&key)).or_insert(self.storages.len());
        if at == self.storages.len() {
            self.storages.push(Storage { key, kind, count });
        }
        Ok(Item::Storage(at))
    }

    /// An item as a value, with the bytes of storages.
    pub(super) fn value<'s>(&self, item: Item, bytes: &dyn Fn(&str) -> Option<&'s [u8]>) -> Result<Value> {
        let stored: usize = self.storages.iter().filter_map(|storage| Some(bytes(&storage.key)?.len())).sum();
        let mut left = Left { values: MOST_VALUES.min(self.length), bytes: stored.saturating_mul(MOST_VIEWS) };
        self.nested(&item, bytes, &mut left, 0)
    }

    fn nested<'s>(
        &self,
        item: &Item,
        bytes: &dyn Fn(&str) -> Option<&'s [u8]>,
        left: &mut Left,
        depth: usize,
    ) -> Result<Value> {
        // Lists may hold themselves, or be shared often enough to grow without end.
        let repeated = || fault("has values nested or repeated without end: it is no checkpoint");
        left.values = left.values.checked_sub(1).filter(|_| depth < DEEPEST).ok_or_else(repeated)?;
        Ok(match item {
            Item::None | Item::Mark | Item::Function(..) | Item::Storage(_) | Item::Long(_) => Value::None,
            Item::Bool(x) => Value::Bool(*x),
            Item::Int(x) => Value::Int(*x),
            Item::Float(x) => Value::Float(*x),
            Item::Text(text) => Value::Text(text.clone()),
            Item::Tensor { storage, offset, sizes, strides } => {
                let storage = self.storages.get(*storage).ok_or_else(inconsistent)?;
                let bytes =
                    bytes(&storage.key).ok_or_else(|| fault(format!("lacks the bytes of storage {}", storage.key)))?;
                let count = sizes.iter().fold(1i64, |count, size| count.saturating_mul(*size));
                let size = usize::try_from(count).unwrap_or(0).saturating_mul(storage.kind.size());
                left.bytes = left.bytes.checked_sub(size).ok_or_else(repeated)?;
                Value::Tensor(Box::new(view(storage, bytes, *offset, sizes, strides)?))
            }
            Item::Object(at) => match &self.objects[*at] {
                Object::List(items) => {
                    let items = items.iter().map(|item| self.nested(item, bytes, left, depth + 1));
                    Value::List(items.collect::<Result<_>>()?)
                }
                Object::Dict(entries) => {
                    let mut dict = Vec::with_capacity(entries.len());
                    for (key, value) in entries {
                        let key = self.nested(key, bytes, left, depth + 1)?;
                        dict.push((key, self.nested(value, bytes, left, depth + 1)?));
                    }
                    Value::Dict(dict)
                }
            },
        })
    }
}

/// How deep values lie in each other at most.
const DEEPEST: usize = 64;
/// How many values there are at most, and no more than the program has bytes: the largest published files have some ten thousand.
const MOST_VALUES: usize = 1 << 20;
/// How often numbers may stand in the tensors, all together: weights may have two names.
const MOST_VIEWS: usize = 4;

/// What may still be made.
struct Left {
    values: usize,
    bytes: usize,
}

/// The numbers of a view of a storage, in order.
fn view(storage: &Storage, bytes: &[u8], offset: i64, sizes: &[i64], strides: &[i64]) -> Result<TensorData> {
    let odd = || fault(format!("has a tensor that lies outside of its storage {}", storage.key));
    ensure!(Kind::File, sizes.len() == strides.len() && sizes.len() <= 8, "{}", odd());
    let natural = |numbers: &[i64]| -> Result<Vec<usize>> {
        numbers.iter().map(|x| usize::try_from(*x).map_err(|_| odd())).collect()
    };
    let (sizes, strides, offset) = (natural(sizes)?, natural(strides)?, usize::try_from(offset).map_err(|_| odd())?);
    // No weights are views that repeat numbers, and a tensor, one of no values included, is thus never larger than the file.
    let extent = sizes.iter().try_fold(1usize, |extent, size| extent.checked_mul(*size.max(&1)));
    ensure!(Kind::File, extent.is_some_and(|extent| extent <= storage.count.max(1)), "{}", odd());
    let count: usize = sizes.iter().product();
    let mut last = Some(offset);
    for (size, stride) in sizes.iter().zip(&strides) {
        last = last.and_then(|last| last.checked_add(stride.checked_mul(size.saturating_sub(1))?));
    }
    ensure!(Kind::File, count == 0 || last.is_some_and(|last| last < storage.count), "{}", odd());
    let wide = storage.kind.size();
    let mut values = Vec::with_capacity(count * wide);
    let mut index = vec![0; sizes.len()];
    for _ in 0..count {
        let at = offset + index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>();
        values.extend_from_slice(&bytes[at * wide..(at + 1) * wide]);
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(TensorData::from_bytes_vec(values, sizes, storage.kind))
}
