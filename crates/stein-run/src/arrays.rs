//! Files of numbers, written as the numbers come: NumPy arrays and CSV tables.

use std::{io::Write, marker::PhantomData, path::Path};

use stein_base::files::PendingFile;

use crate::{Error, Result};

/// A number that arrays are made of.
pub trait Number: Copy {
    /// Its type as NumPy writes it.
    const DESCRIPTION: &'static str;

    /// Its bytes, the lowest first.
    fn bytes(self) -> impl AsRef<[u8]>;
}

impl Number for f32 {
    const DESCRIPTION: &'static str = "<f4";

    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Number for f64 {
    const DESCRIPTION: &'static str = "<f8";

    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Number for i64 {
    const DESCRIPTION: &'static str = "<i8";

    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

/// A NumPy array of numbers that is written piece by piece, row by row.
pub struct NpyFile<T = f32> {
    file: PendingFile,
    /// Numbers that are still to come.
    left: usize,
    of: PhantomData<T>,
}

impl<T: Number> NpyFile<T> {
    /// Starts an array of this shape in a file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn new(path: impl AsRef<Path>, shape: &[usize]) -> Result<Self> {
        Self::within(PendingFile::new(path)?, shape)
    }

    /// Starts an array of this shape in a file that was started: version 1.0 of the format has a magic, the length of the header
    /// and the header; numbers then start at a multiple of 64.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn within(mut file: PendingFile, shape: &[usize]) -> Result<Self> {
        // A tuple as Python writes it: a single side keeps its comma.
        let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
        let tuple = sides.join(", ") + if sides.len() == 1 { "," } else { "" };
        let header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({tuple}), }}", T::DESCRIPTION);
        let length = (header.len() + 11).next_multiple_of(64) - 10;
        let start = |file: &mut PendingFile| {
            file.write_all(b"\x93NUMPY\x01\x00")?;
            file.write_all(&(length as u16).to_le_bytes())?;
            writeln!(file, "{header:<0$}", length - 1)
        };
        start(&mut file).map_err(|error| file.failed(&error))?;
        Ok(Self { file, left: shape.iter().product(), of: PhantomData })
    }

    /// Writes the next numbers.
    ///
    /// # Errors
    /// More numbers than the array has, and a file that cannot be written.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.left = self.left.checked_sub(values.len()).ok_or_else(|| {
            Error::new(format!("{} more numbers do not fit in the array: {} are left", values.len(), self.left))
        })?;
        let write = |file: &mut PendingFile| values.iter().try_for_each(|value| file.write_all(value.bytes().as_ref()));
        write(&mut self.file).map_err(|error| self.file.failed(&error))
    }

    /// Puts the array in its place.
    ///
    /// # Errors
    /// Numbers that are still missing, and a file that cannot be written.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::new(format!("the array lacks {} numbers", self.left)));
        }
        self.file.commit()
    }
}

/// A CSV table that is written piece by piece, with the class of each row in a last column if there are classes.
pub struct CsvFile {
    table: csv::Writer<PendingFile>,
    dim: usize,
    classes: bool,
}

impl CsvFile {
    /// Starts a table under this header in a file; `class` is the name of the column of classes.
    ///
    /// # Errors
    /// No columns, and a file that cannot be written.
    pub fn new(path: impl AsRef<Path>, header: &[String], class: Option<&str>) -> Result<Self> {
        Self::within(PendingFile::new(path)?, header, class)
    }

    /// As [`new`](Self::new), in a file that was started.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn within(file: PendingFile, header: &[String], class: Option<&str>) -> Result<Self> {
        if header.is_empty() {
            return Err(Error::new("a table needs a column"));
        }
        let mut table = csv::Writer::from_writer(file);
        let names = header.iter().map(String::as_str).chain(class);
        table.write_record(names).map_err(|error| failed(table.get_ref(), error))?;
        Ok(Self { table, dim: header.len(), classes: class.is_some() })
    }

    /// Writes the next rows.
    ///
    /// # Errors
    /// Numbers that make no whole rows, classes that are missing or too many, and a file that cannot be written.
    pub fn write(&mut self, rows: &[f32], classes: Option<&[&str]>) -> Result<()> {
        let count = rows.len() / self.dim;
        let given = classes.map(<[&str]>::len);
        if !rows.len().is_multiple_of(self.dim) || given != self.classes.then_some(count) {
            return Err(Error::new(format!(
                "{} numbers and {} classes make no rows of {} columns",
                rows.len(),
                given.unwrap_or(0),
                self.dim
            )));
        }
        for (index, row) in rows.chunks_exact(self.dim).enumerate() {
            let class = classes.map(|classes| classes[index].to_owned());
            let record = row.iter().map(|value| format!("{value:?}")).chain(class);
            self.table.write_record(record).map_err(|error| failed(self.table.get_ref(), error))?;
        }
        Ok(())
    }

    /// Puts the table in its place.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.table.flush().map_err(|error| self.table.get_ref().failed(&error))?;
        self.table.into_inner().map_err(|_| Error::new("a table that was flushed holds rows back"))?.commit()
    }
}

fn failed(file: &PendingFile, error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => file.failed(&error),
        other => unreachable!("rows of one length, which were checked, fail for no other reason: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_directory_is_a_sentence() {
        let error = NpyFile::<i64>::new("/nowhere/at/all.npy", &[1]).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/at/all.npy: ") && error.contains("create it"), "{error}");
    }

    #[test]
    fn npy_is_laid_out_as_numpy_documents_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.npy");
        let mut file: NpyFile = NpyFile::new(&path, &[3, 2]).unwrap();
        file.write(&[1.0, -2.5]).unwrap();
        file.write(&[3.0, 0.0, 5.0, 6.0]).unwrap();
        assert!(file.write(&[1.0]).is_err() && !path.exists());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        assert!(bytes[10..].starts_with(header.as_bytes()) && bytes[127] == b'\n' && bytes.len() == 128 + 24);
        assert_eq!(bytes[132..136], (-2.5_f32).to_le_bytes());
        assert!(NpyFile::<f32>::new(&path, &[2]).unwrap().finish().unwrap_err().to_string().contains("lacks 2"));
    }

    #[test]
    fn csv_has_a_header_and_labels() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        let header = ["x".to_string(), "y, up".to_string()];
        let mut table = CsvFile::new(&path, &header, Some("kind, own")).unwrap();
        table.write(&[0.1, -2.0], Some(&["7"])).unwrap();
        table.write(&[3e-20, f32::NAN], Some(&["a, b"])).unwrap();
        assert!(table.write(&[0.1], Some(&[])).is_err());
        assert!(table.write(&[0.1, 0.2], None).unwrap_err().to_string().contains("0 classes"));
        table.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x,\"y, up\",\"kind, own\"\n0.1,-2.0,7\n3e-20,NaN,\"a, b\"\n");
    }
}
