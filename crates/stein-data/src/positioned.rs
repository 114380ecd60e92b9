//! A file read and written at given places, by any number of threads at once.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// A file without a position of its own.
#[derive(Debug)]
pub(crate) struct Positioned {
    #[cfg(unix)]
    file: File,
    /// Other systems have no such calls in common: one thread at a time seeks and reads.
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

#[cfg(unix)]
impl Positioned {
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// Reads at most as many bytes as fit.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, bytes, at)
    }

    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, bytes, at)
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, at)
    }
}

#[cfg(not(unix))]
impl Positioned {
    pub fn new(file: File) -> Self {
        Self { file: std::sync::Mutex::new(file) }
    }

    fn seek(&self, at: u64) -> io::Result<std::sync::MutexGuard<'_, File>> {
        // Poison means that another thread panicked here; a file stays a file.
        let mut file = self.file.lock().unwrap_or_else(|poison| poison.into_inner());
        file.seek(SeekFrom::Start(at))?;
        Ok(file)
    }

    /// Reads at most as many bytes as fit.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.seek(at)?.read(bytes)
    }

    pub fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.seek(at)?.read_exact(bytes)
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        io::Write::write_all(&mut *self.seek(at)?, bytes)
    }
}

/// A part of a file, read as if it were a file.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    file: &'a Positioned,
    start: u64,
    len: u64,
    at: u64,
}

impl<'a> Section<'a> {
    /// The `len` bytes from `start`.
    pub fn new(file: &'a Positioned, start: u64, len: u64) -> Self {
        Self { file, start, len, at: 0 }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
        let read = self.file.read_at(&mut bytes[..left], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_it_ends() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"before, inside, after").unwrap();
        let file = Positioned::new(file);
        let mut section = Section::new(&file, 8, 6);
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(section.seek(SeekFrom::End(-3)).unwrap(), 3);
        text.clear();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ide");
        assert!(section.seek(SeekFrom::Current(-7)).is_err());
        assert_eq!(section.seek(SeekFrom::Start(9)).unwrap(), 9);
        assert_eq!(section.read(&mut [0; 4]).unwrap(), 0, "nothing is read behind the end");
    }
}
