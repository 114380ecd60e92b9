//! What the programs of `torch.save` call and refer to, as data: dictionaries, tensors, and the bytes these are views of.

use burn::tensor::{DType, TensorData};
use stein::{Error, Kind, Result, ensure};

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
            _ => Err(Error::of(
                Kind::Unsupported,
                format!(
                    "asks to run {module}.{name}, which no weights need: it is refused; save the state dict alone, or as \
                 safetensors"
                ),
            )),
        }
    }

    /// The storage an identifier names.
    pub(super) fn storage(&mut self, id: &Item) -> Result<Item> {
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
                    other => {
                        let sentence = format!("has a {other}, which holds no weights");
                        return Err(Error::of(Kind::Unsupported, sentence));
                    }
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
    pub(super) fn value<'s>(&self, item: Item, bytes: &dyn Fn(&str) -> Option<&'s [u8]>) -> Result<Value> {
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
        ensure!(
            Kind::File,
            depth < DEEPEST && *values < MOST,
            "has values nested or repeated without end: it is no checkpoint"
        );
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

/// The numbers of a view of a storage, in order.
fn view(storage: &Storage, bytes: &[u8], offset: i64, sizes: &[i64], strides: &[i64]) -> Result<TensorData> {
    let odd = || fault(format!("has a tensor that lies outside of its storage {}", storage.key));
    ensure!(Kind::File, sizes.len() == strides.len() && sizes.len() <= 8, "{}", odd());
    let natural = |numbers: &[i64]| -> Result<Vec<usize>> {
        numbers.iter().map(|x| usize::try_from(*x).map_err(|_| odd())).collect()
    };
    let (sizes, strides, offset) = (natural(sizes)?, natural(strides)?, usize::try_from(offset).map_err(|_| odd())?);
    let count = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).ok_or_else(odd)?;
    // No weights are views that repeat numbers, and a tensor is thus never larger than the file.
    ensure!(Kind::File, count <= storage.count, "{}", odd());
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
