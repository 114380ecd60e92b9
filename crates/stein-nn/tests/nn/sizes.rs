//! Every number of every network at its extremes: a sentence or a small network, before anything is allocated.

use stein::{Device, settings};
use stein_nn::{NetworkConfig, NetworkSize, Unet2dConditionConfig};
use toml::{Table, Value};

/// Keys that have no default, and so are not written.
const OPTIONAL: [(&str, &str, Value); 6] = [
    ("unet", "groups", Value::Integer(1)),
    ("unet1d", "groups", Value::Integer(1)),
    ("adm", "heads_up", Value::Integer(4)),
    ("adm", "head_channels", Value::Integer(32)),
    ("unet", "second_level", Value::Boolean(true)),
    ("mlp", "second_level", Value::Boolean(true)),
];

const WHOLE: [i64; 12] = [-1, 0, 1, 2, 3, 100_000, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 32, 1 << 62, i64::MAX];
const REAL: [f64; 9] = [0.0, -0.0, -1.0, 1e-300, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.5];

/// The table with each number at each of its extremes, and each list empty, long or of one item.
fn extremes(value: &Value) -> Vec<Value> {
    match value {
        Value::Integer(_) => WHOLE.map(Value::Integer).into(),
        Value::Float(_) => REAL.map(Value::Float).into(),
        Value::Array(items) => {
            let first = items.first().cloned().unwrap_or(Value::Integer(1));
            let mut all = vec![Value::Array(Vec::new()), Value::Array(vec![first.clone()])];
            all.extend([60, 65, 200_000].map(|count| Value::Array(vec![first.clone(); count])));
            for (i, item) in items.iter().enumerate() {
                all.extend(extremes(item).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[i] = item;
                    Value::Array(items)
                }));
            }
            all
        }
        Value::Table(table) => table
            .iter()
            .flat_map(|(key, value)| {
                extremes(value).into_iter().map(|value| {
                    let mut table = table.clone();
                    table.insert(key.clone(), value);
                    Value::Table(table)
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn table(config: &NetworkConfig) -> Table {
    let Value::Table(mut table) = settings::write(config).unwrap() else { panic!("a config is a table") };
    for (kind, key, value) in OPTIONAL {
        if config.kind() == kind {
            table.insert(key.to_owned(), value);
        }
    }
    table
}

#[test]
fn every_number_at_its_extremes_is_a_sentence_or_a_network_that_fits() {
    let shapes: [(&[usize], usize); 6] = [
        (&[2], 10),
        (&[25, 3], 0),
        (&[32, 32, 3], 0),
        (&[32, 32, 3], usize::MAX),
        (&[1 << 20, 1 << 20, 3], 0),
        (&[usize::MAX, 2, 3], 0),
    ];
    let (mut refused, mut sized) = (0, 0);
    for config in NetworkConfig::all() {
        for value in extremes(&Value::Table(table(&config))) {
            let Ok(config) = settings::read::<NetworkConfig>(value.clone()) else { continue };
            for (shape, classes) in shapes {
                match config.size(shape, classes) {
                    Ok(NetworkSize { parameters, .. }) => {
                        sized += 1;
                        assert!(parameters < 1 << 40, "{value} of {parameters} parameters was not refused");
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().len() < 600, "{error}");
                    }
                }
            }
        }
    }
    assert!(refused > 1000 && sized > 200, "{refused} refused, {sized} sized");
}

#[test]
fn what_is_counted_is_what_is_built() {
    for config in NetworkConfig::all() {
        let shape: &[usize] = match config.kind() {
            "mlp" => &[2],
            "unet1d" => &[24, 3],
            "unet2d_condition" | "dit" => &[32, 32, 4],
            _ => &[32, 32, 3],
        };
        let config = match config {
            // The default is that of Stable Diffusion, of 860 million.
            NetworkConfig::Unet2dCondition(_) => {
                Unet2dConditionConfig { channels: vec![32; 4], ..Unet2dConditionConfig::default() }.into()
            }
            other => other,
        };
        let network = config.build(shape, 0, 1, &Device::flex()).unwrap();
        let size = config.size(shape, 0).unwrap();
        assert_eq!(size.parameters, network.parameters(), "{}", config.kind());
        assert!(size.outputs > 100, "{}", config.kind());
    }
}
