//! The stack machine: the instructions that build values.

use std::{collections::BTreeMap, sync::Arc};

use stein::{Error, Result, ensure};

use super::{cut_short, storage::Storage};
use crate::files::fault;

/// What is on the stack. What can still change is an object, referred to by its number; what may be long is shared, since a program
/// can bring it back as often as it likes.
#[derive(Debug, Clone)]
pub(super) enum Item {
    None,
    Bool(bool),
    Int(i64),
    Long(Arc<[u8]>),
    Float(f64),
    Text(Arc<str>),
    Mark,
    Function(Arc<str>, Arc<str>),
    Storage(usize),
    Tensor { storage: usize, offset: i64, sizes: Arc<[i64]>, strides: Arc<[i64]> },
    Object(usize),
}

impl Item {
    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<Arc<str>> {
        if let Self::Text(text) = self { Some(text.clone()) } else { None }
    }
}

/// What can still change after it is on the stack.
#[derive(Debug)]
pub(super) enum Object {
    /// A list, a tuple or a set.
    List(Vec<Item>),
    /// A dictionary, or an object with fields.
    Dict(Vec<(Item, Item)>),
}

/// A program, and all it has made so far.
pub(super) struct Machine<'a> {
    /// What is left to be run.
    program: &'a [u8],
    stack: Vec<Item>,
    memo: BTreeMap<u32, Item>,
    pub(super) objects: Vec<Object>,
    pub(super) storages: Vec<Storage>,
    /// The places of storages in the list.
    pub(super) known: BTreeMap<Arc<str>, usize>,
    /// The bytes of the program.
    pub(super) length: usize,
    /// Steps that are left.
    budget: usize,
}

/// Steps that a program may take for each of its bytes: an instruction is one, and so is each item that it copies.
const STEPS_PER_BYTE: usize = 16;

/// What is wrong with a program that makes no sense.
pub(super) fn inconsistent() -> Error {
    fault("has a pickle that is damaged, or not one of torch.save")
}

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a [u8]) -> Self {
        Self {
            program,
            stack: Vec::new(),
            memo: BTreeMap::new(),
            objects: Vec::new(),
            storages: Vec::new(),
            known: BTreeMap::new(),
            length: program.len(),
            budget: program.len().saturating_mul(STEPS_PER_BYTE),
        }
    }

    /// Takes steps from what is left.
    pub(super) fn spend(&mut self, steps: usize) -> Result<()> {
        let left = self.budget.checked_sub(steps);
        self.budget = left.ok_or_else(|| fault("has a pickle of more steps than a checkpoint of its size needs"))?;
        Ok(())
    }

    /// Runs up to the next stop, and returns what is on the stack then.
    pub(super) fn run(&mut self) -> Result<Item> {
        self.stack.clear();
        self.memo.clear();
        loop {
            let code = self.take(1)?[0];
            self.spend(1)?;
            if code == b'.' {
                return self.pop();
            }
            let known = self.constant(code)? || self.collection(code)? || self.memory(code)? || self.call(code)?;
            ensure!(Kind::File, known, "has the pickle instruction {code:#04x}, which no state dict needs");
        }
    }

    /// Instructions that push a value written in the program. Whether this was one, as of the following.
    fn constant(&mut self, code: u8) -> Result<bool> {
        let item = match code {
            b'N' => Item::None,
            0x88 => Item::Bool(true),
            0x89 => Item::Bool(false),
            b'J' => Item::Int(i64::from(self.number(4)? as u32 as i32)),
            b'K' => Item::Int(self.number(1)? as i64),
            b'M' => Item::Int(self.number(2)? as i64),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => Item::Float(f64::from_be_bytes(self.eight()?)),
            b'X' | b'T' | b'B' => self.text(4)?,
            0x8c | b'U' | b'C' => self.text(1)?,
            0x8d | 0x8e => self.text(8)?,
            b'c' => Item::Function(self.line()?, self.line()?),
            _ => return Ok(false),
        };
        self.stack.push(item);
        Ok(true)
    }

    /// Instructions that make lists and dictionaries, and put items into them.
    fn collection(&mut self, code: u8) -> Result<bool> {
        match code {
            b'(' => self.stack.push(Item::Mark),
            b'}' => self.push(Object::Dict(Vec::new())),
            b']' | b')' | 0x8f => self.push(Object::List(Vec::new())),
            b't' => {
                let items = self.marked()?;
                self.push(Object::List(items));
            }
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or_else(inconsistent)?;
                let items = self.stack.split_off(from);
                self.push(Object::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item]);
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.append(items);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.insert(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Instructions that keep what is on the stack, bring it back or drop it, and what frames a program.
    fn memory(&mut self, code: u8) -> Result<bool> {
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'0' => drop(self.pop()?),
            b'q' | b'r' | 0x94 => {
                let at = match code {
                    b'q' => self.number(1)? as u32,
                    b'r' => self.number(4)? as u32,
                    _ => self.memo.len() as u32,
                };
                let item = self.stack.last().ok_or_else(inconsistent)?.clone();
                self.memo.insert(at, item);
            }
            b'h' | b'j' => {
                let at = self.number(if code == b'h' { 1 } else { 4 })? as u32;
                let item = self.memo.get(&at).cloned().ok_or_else(inconsistent)?;
                self.stack.push(item);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Instructions that name a function, call it, or give what it made its state; and that refer to bytes beside the program.
    fn call(&mut self, code: u8) -> Result<bool> {
        let item = match code {
            0x93 => match (self.pop()?, self.pop()?) {
                (Item::Text(name), Item::Text(module)) => Item::Function(module, name),
                _ => return Err(inconsistent()),
            },
            b'Q' => {
                let id = self.pop()?;
                self.storage(&id)?
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.result(&function, &arguments)?
            }
            b'b' => {
                let state = self.pop()?;
                self.build(&state)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.stack.push(item);
        Ok(true)
    }

    /// The next bytes of the program.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, left) = self.program.split_at_checked(count).ok_or_else(cut_short)?;
        self.program = left;
        Ok(bytes)
    }

    pub(super) fn eight(&mut self) -> Result<[u8; 8]> {
        self.take(8)?.try_into().map_err(|_| cut_short())
    }

    /// An unsigned number of some bytes, the least first.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// As many bytes as a number of some bytes says.
    fn counted(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let count = usize::try_from(self.number(bytes)?).map_err(|_| cut_short())?;
        self.take(count)
    }

    /// A signed number of any length, the least byte first.
    fn long(&mut self, bytes: usize) -> Result<Item> {
        let digits = self.counted(bytes)?;
        if digits.len() > 8 {
            return Ok(Item::Long(digits.into()));
        }
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..digits.len()].copy_from_slice(digits);
        Ok(Item::Int(i64::from_le_bytes(all)))
    }

    fn text(&mut self, bytes: usize) -> Result<Item> {
        Ok(Item::Text(String::from_utf8_lossy(self.counted(bytes)?).into()))
    }

    fn line(&mut self) -> Result<Arc<str>> {
        let end = self.program.iter().position(|byte| *byte == b'\n').ok_or_else(cut_short)?;
        let line = String::from_utf8_lossy(self.take(end)?).into();
        self.take(1)?;
        Ok(line)
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

    /// Makes an object.
    pub(super) fn object(&mut self, object: Object) -> Item {
        self.objects.push(object);
        Item::Object(self.objects.len() - 1)
    }

    fn push(&mut self, object: Object) {
        let item = self.object(object);
        self.stack.push(item);
    }

    /// The items of a list or a tuple.
    pub(super) fn list(&self, item: &Item) -> Result<&[Item]> {
        let Item::Object(at) = item else { return Err(inconsistent()) };
        match self.objects.get(*at) {
            Some(Object::List(items)) => Ok(items),
            _ => Err(inconsistent()),
        }
    }

    /// The object on top of the stack, if it is one.
    fn top(&mut self) -> Option<&mut Object> {
        let Some(Item::Object(at)) = self.stack.last() else { return None };
        self.objects.get_mut(*at)
    }

    fn append(&mut self, items: Vec<Item>) {
        if let Some(Object::List(list)) = self.top() {
            list.extend(items);
        }
    }

    fn insert(&mut self, items: Vec<Item>) -> Result<()> {
        ensure!(Kind::File, items.len().is_multiple_of(2), "{}", inconsistent());
        if let Some(Object::Dict(dict)) = self.top() {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                dict.push((key, value));
            }
        }
        Ok(())
    }

    /// Gives an object its state: the fields of what became a dictionary, nothing for all else.
    fn build(&mut self, state: &Item) -> Result<()> {
        // `_metadata` of a state dict is a field of the dictionary object, not an entry.
        let Some(Object::Dict(entries)) = self.top() else { return Ok(()) };
        let Item::Object(from) = *state else { return Ok(()) };
        if !entries.is_empty() {
            return Ok(());
        }
        if let Some(Object::Dict(fields)) = self.objects.get(from) {
            let fields = fields.clone();
            self.spend(fields.len())?;
            if let Some(Object::Dict(entries)) = self.top() {
                entries.extend(fields);
            }
        }
        Ok(())
    }
}
