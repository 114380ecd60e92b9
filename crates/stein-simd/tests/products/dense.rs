//! Linear layers and sums of columns against f64.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use stein_simd::{
    Isa, column_sums,
    convolution::{Epilogue, Method, Shape, Weights},
    dense,
};

use crate::{check, numbers};

/// The product of rows of a and B\[k, n\] = b(k, n).
fn product(a: &[f32], rows: usize, columns: usize, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let depth = a.len() / rows;
    let entry = |i: usize| {
        let row = &a[i / columns * depth..][..depth];
        row.iter().enumerate().map(|(k, a)| f64::from(*a) * f64::from(b(k, i % columns))).sum()
    };
    (0..rows * columns).map(entry).collect()
}

#[test]
fn values() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for rows in [1, 5, 100, 513] {
        for (first, second, outputs) in [(1, 0, 1), (17, 0, 33), (64, 0, 16), (7, 14, 40), (33, 31, 130)] {
            let inputs = first + second;
            let tensors = [first, second].map(|width| numbers(rows * width, &mut rng));
            let parts: Vec<&[f32]> = tensors.iter().map(|x| &x[..]).filter(|x| !x.is_empty()).collect();
            let mut x = Vec::new();
            for i in 0..rows {
                parts.iter().for_each(|part| x.extend(&part[i * part.len() / rows..(i + 1) * part.len() / rows]));
            }
            let [w, bias, residual] = [inputs * outputs, outputs, rows * outputs].map(|n| numbers(n, &mut rng));
            let plain = product(&x, rows, outputs, |k, n| w[k * outputs + n]);
            let all = plain.iter().enumerate();
            let all = all.map(|(i, y)| 0.7 * (y + f64::from(bias[i % outputs]) + f64::from(residual[i]))).collect();
            let shape = Shape::dense(rows, inputs, outputs);
            for isa in Isa::available() {
                let weights = Weights::new(isa, &shape, Method::Direct, &w);
                let full = Epilogue { bias: Some(&bias), residual: Some(&residual), scale: 0.7, ..Epilogue::default() };
                let what = format!("{rows} x {inputs} x {outputs} on {}", isa.name());
                let epilogues: [(Epilogue, &Vec<f64>); 2] = [(Epilogue::default(), &plain), (full, &all)];
                for (epilogue, wanted) in epilogues {
                    let mut y = vec![f32::NAN; wanted.len()];
                    dense(isa, &parts, &weights, &epilogue, &mut y);
                    check(&y, wanted, 1e-5, &what);
                }
            }
        }
    }
}

/// The gradient of some of the inputs is a linear layer too.
#[test]
fn transposed() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, inputs, outputs, range) in [(1, 3, 5, 0..3), (100, 40, 33, 0..40), (513, 37, 20, 9..30)] {
        let shape = Shape::dense(rows, inputs, outputs);
        let (w, dy) = (numbers(inputs * outputs, &mut rng), numbers(rows * outputs, &mut rng));
        let wanted = product(&dy, rows, range.len(), |k, n| w[(range.start + n) * outputs + k]);
        for isa in Isa::available() {
            let mut dx = vec![f32::NAN; wanted.len()];
            let weights = Weights::transposed(isa, &shape, Method::Direct, range.clone(), &w);
            dense(isa, &[&dy], &weights, &Epilogue::default(), &mut dx);
            check(&dx, &wanted, 1e-5, &format!("{shape:?} on {}", isa.name()));
        }
    }
}

#[test]
fn sums_of_columns() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (samples, places, columns) in [(1, 1, 1), (3, 5, 7), (2, 64, 16), (4, 1000, 33), (1, 4096, 40), (5, 0, 3)] {
        // All of the same sign, so that sums and their rounding errors grow.
        let x: Vec<f32> = numbers(samples * places * columns, &mut rng).iter().map(|x| x + 1.0).collect();
        let mut wanted = vec![0.0; samples * columns];
        for (i, x) in x.iter().enumerate() {
            wanted[i / columns / places * columns + i % columns] += f64::from(*x);
        }
        for isa in Isa::available() {
            let sums = column_sums(isa, &x, samples, columns);
            check(&sums, &wanted, 1e-5, &format!("{samples} x {places} x {columns} on {}", isa.name()));
        }
    }
}

#[test]
fn same_bits_alone_and_among_others() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (rows, inputs, outputs) = (201, 70, 45);
    let [x, w, bias] = [rows * inputs, inputs * outputs, outputs].map(|n| numbers(n, &mut rng));
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    for isa in Isa::available() {
        let weights = Weights::new(isa, &Shape::dense(rows, inputs, outputs), Method::Direct, &w);
        let run = |x: &[f32]| {
            let mut y = vec![0.0; x.len() / inputs * outputs];
            dense(isa, &[x], &weights, &epilogue, &mut y);
            y
        };
        let alone = x.chunks(inputs).flat_map(run);
        assert!(run(&x).into_iter().eq(alone), "{}", isa.name());
        let sums = column_sums(isa, &x, 3, inputs);
        let alone = x.chunks(rows / 3 * inputs).flat_map(|x| column_sums(isa, x, 1, inputs));
        assert!(sums.into_iter().eq(alone), "{}", isa.name());
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (rows, inputs, outputs) = (700, 90, 130);
    let (x, w) = (numbers(rows * inputs, &mut rng), numbers(inputs * outputs, &mut rng));
    for isa in Isa::available() {
        let weights = Weights::new(isa, &Shape::dense(rows, inputs, outputs), Method::Direct, &w);
        let run = || {
            let mut y = vec![0.0; rows * outputs];
            dense(isa, &[&x], &weights, &Epilogue::default(), &mut y);
            (y, column_sums(isa, &x, 7, inputs))
        };
        let [one, three] =
            [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run));
        assert!(one == three, "{}", isa.name());
    }
}

#[test]
#[should_panic(expected = "the input of a linear layer")]
fn wrong_sizes() {
    let isa = Isa::best();
    let weights = Weights::new(isa, &Shape::dense(1, 3, 2), Method::Direct, &[0.0; 6]);
    dense(isa, &[&[0.0; 5]], &weights, &Epilogue::default(), &mut [0.0; 4]);
}
