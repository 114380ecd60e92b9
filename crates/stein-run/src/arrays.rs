//! Files of numbers, written as the numbers come: NumPy arrays and CSV tables.

use std::{io::Write, path::Path};

use stein_base::files::PendingFile;

use crate::{Error, Result};

/// A NumPy array of 32-bit floats that is written piece by piece, row by row.
pub struct NpyFile {
    file: PendingFile,
    /// Numbers that are still to come.
    left: usize,
}

impl NpyFile {
    /// Starts an array of this shape.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn new(path: impl AsRef<Path>, shape: &[usize]) -> Result<Self> {
        Ok(Self { file: npy(path.as_ref(), "<f4", shape)?, left: shape.iter().product() })
    }

    /// Writes the next numbers.
    ///
    /// # Errors
    /// More numbers than the array has, and a file that cannot be written.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        self.left = self.left.checked_sub(values.len()).ok_or_else(|| {
            Error::new(format!("{} more numbers do not fit in the array: {} are left", values.len(), self.left))
        })?;
        let write = |file: &mut PendingFile| values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()));
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

/// Writes numbers as a one-dimensional NumPy array of 64-bit integers.
///
/// # Errors
/// A file that cannot be written.
pub fn write_npy_i64(path: impl AsRef<Path>, data: &[i64]) -> Result<()> {
    let mut file = npy(path.as_ref(), "<i8", &[data.len()])?;
    let write = |file: &mut PendingFile| data.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()));
    write(&mut file).map_err(|error| file.failed(&error))?;
    file.commit()
}

/// The start of version 1.0 of the format: magic, length of the header, header; numbers then start at a multiple of 64.
fn npy(path: &Path, kind: &str, shape: &[usize]) -> Result<PendingFile> {
    // A tuple as Python writes it: a single side keeps its comma.
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    let shape = sides.join(", ") + if sides.len() == 1 { "," } else { "" };
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (header.len() + 11).next_multiple_of(64) - 10;
    let mut file = PendingFile::new(path)?;
    let start = |file: &mut PendingFile| {
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(length as u16).to_le_bytes())?;
        writeln!(file, "{header:<0$}", length - 1)
    };
    start(&mut file).map_err(|error| file.failed(&error))?;
    Ok(file)
}

/// A CSV table that is written piece by piece, with a last column `label` if there are labels.
pub struct CsvFile {
    table: csv::Writer<PendingFile>,
    dim: usize,
    labels: bool,
}

impl CsvFile {
    /// Starts a table under this header.
    ///
    /// # Errors
    /// No columns, and a file that cannot be written.
    pub fn new(path: impl AsRef<Path>, header: &[String], labels: bool) -> Result<Self> {
        let path = path.as_ref();
        if header.is_empty() {
            return Err(Error::new("a table needs a column").at(path.display()));
        }
        let mut table = csv::Writer::from_writer(PendingFile::new(path)?);
        let names = header.iter().map(String::as_str).chain(labels.then_some("label"));
        table.write_record(names).map_err(|error| failed(table.get_ref(), error))?;
        Ok(Self { table, dim: header.len(), labels })
    }

    /// Writes the next rows.
    ///
    /// # Errors
    /// Numbers that make no whole rows, labels that are missing or too many, and a file that cannot be written.
    pub fn write(&mut self, rows: &[f32], labels: Option<&[u32]>) -> Result<()> {
        let count = rows.len() / self.dim;
        let given = labels.map(<[u32]>::len);
        if !rows.len().is_multiple_of(self.dim) || given != self.labels.then_some(count) {
            return Err(Error::new(format!(
                "{} numbers and {} labels make no rows of {} columns",
                rows.len(),
                given.unwrap_or(0),
                self.dim
            )));
        }
        for (index, row) in rows.chunks_exact(self.dim).enumerate() {
            let label = labels.map(|labels| labels[index].to_string());
            let record = row.iter().map(|value| format!("{value:?}")).chain(label);
            self.table.write_record(record).map_err(|error| failed(self.table.get_ref(), error))?;
        }
        Ok(())
    }

    /// Puts the table in its place.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(self) -> Result<()> {
        let unwritten = |error: &dyn std::fmt::Display| {
            Error::of(stein::Kind::File, format!("a table cannot be written: {error}; is the disk full?"))
        };
        self.table.into_inner().map_err(|error| unwritten(&error.error()))?.commit()
    }
}

fn failed(file: &PendingFile, error: csv::Error) -> Error {
    file.failed(&std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_directory_is_a_sentence() {
        let error = write_npy_i64("/nowhere/at/all.npy", &[1]).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all.npy: ") && error.contains("create it"), "{error}");
    }

    #[test]
    fn npy_is_laid_out_as_numpy_documents_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.npy");
        let mut file = NpyFile::new(&path, &[3, 2]).unwrap();
        file.write(&[1.0, -2.5]).unwrap();
        file.write(&[3.0, 0.0, 5.0, 6.0]).unwrap();
        assert!(file.write(&[1.0]).is_err() && !path.exists());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        assert!(bytes[10..].starts_with(header.as_bytes()) && bytes[127] == b'\n' && bytes.len() == 128 + 24);
        assert_eq!(bytes[132..136], (-2.5_f32).to_le_bytes());
        assert!(NpyFile::new(&path, &[2]).unwrap().finish().unwrap_err().to_string().contains("lacks 2"));
    }

    #[test]
    fn csv_has_a_header_and_labels() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        let header = ["x".to_string(), "y, up".to_string()];
        let mut table = CsvFile::new(&path, &header, true).unwrap();
        table.write(&[0.1, -2.0], Some(&[7])).unwrap();
        table.write(&[3e-20, f32::NAN], Some(&[8])).unwrap();
        assert!(table.write(&[0.1], Some(&[])).is_err());
        assert!(table.write(&[0.1, 0.2], None).unwrap_err().to_string().contains("0 labels"));
        table.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x,\"y, up\",label\n0.1,-2.0,7\n3e-20,NaN,8\n");
    }
}
