//! Tests that `docs/kcache.schema.json` agrees with the parser: equal fields of equal types, the same ones required,
//! and the documentation's examples pass.

use std::path::Path;

use serde_json::{Value, json};

/// Values of every TOML type, with the type's name in JSON Schema.
const VALUES: [(&str, &str); 6] = [
    ("'x'", "string"),
    ("1", "integer"),
    ("true", "boolean"),
    ("['x']", "array of string"),
    ("[{}]", "array of object"),
    ("{}", "object"),
];

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/kcache.schema.json")).unwrap()
}

/// The parser's error for a text, if any.
fn objection(text: &str) -> Option<String> {
    super::parse(Path::new("kcache.toml"), text).err().map(|error| error.to_string())
}

/// A table: its path in the schema, and a function that makes a file with a line in it.
type Table = (&'static str, fn(&str) -> String);

fn tables() -> [Table; 5] {
    [
        ("", |line| format!("name = 'a'\nversion = '1'\n{line}\n")),
        ("/$defs/module", |line| format!("name = 'a'\nversion = '1'\n[[module]]\nname = 'm'\n{line}\n")),
        ("/$defs/patch", |line| format!("name = 'a'\nversion = '1'\n[[patch]]\nfile = 'p'\n{line}\n")),
        ("/$defs/kernels", |line| format!("name = 'a'\nversion = '1'\n[kernels]\n{line}\n")),
        ("/$defs/kernels", |line| {
            format!("name = 'a'\nversion = '1'\n[[patch]]\nfile = 'p'\n[patch.kernels]\n{line}\n")
        }),
    ]
}

fn fields(table: &Value) -> Vec<String> {
    table["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn parser_and_schema_have_equal_fields() {
    for (place, file) in tables() {
        let message = objection(&file("unheard-of = 1")).unwrap();
        let (_, names) = message.split_once("expected").unwrap();
        let mut parsers: Vec<String> = names.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        parsers.sort();
        let schema = schema();
        let table = schema.pointer(place).unwrap();
        assert_eq!(parsers, fields(table), "{place}");
        assert_eq!(table["additionalProperties"], json!(false), "{place}");
    }
}

#[test]
fn parser_and_schema_have_equal_types() {
    let schema = schema();
    for (place, file) in tables() {
        let table = schema.pointer(place).unwrap();
        let required = table["required"].as_array().cloned().unwrap_or_default();
        for field in fields(table).into_iter().filter(|field| !required.contains(&json!(field))) {
            let wanted = type_of(&schema, &table["properties"][&field]);
            for (value, kind) in VALUES {
                let objection = objection(&file(&format!("{field} = {value}")));
                let is_of_type = !objection
                    .as_ref()
                    .is_some_and(|it| it.contains("invalid type") || it.contains("invalid length"));
                assert_eq!(is_of_type, kind == wanted, "{place} {field} = {value}: {objection:?}");
            }
        }
    }
}

/// A field's type: `string`, `array of string`, ...
fn type_of(schema: &Value, field: &Value) -> String {
    let field = match field["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => field,
    };
    match field["items"].is_object() {
        true => format!("array of {}", type_of(schema, &field["items"])),
        false => field["type"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn parser_and_schema_require_the_same_fields() {
    let required = |place: &str| schema().pointer(place).unwrap()["required"].clone();
    assert!(objection("version = '1'").unwrap().contains("missing field `name`"));
    assert!(objection("name = 'a'").unwrap().contains("missing field `version`"));
    assert_eq!(required(""), json!(["name", "version"]));
    assert!(objection("name='a'\nversion='1'\n[[module]]\n").unwrap().contains("missing field `name`"));
    assert_eq!(required("/$defs/module"), json!(["name"]));
    assert!(objection("name='a'\nversion='1'\n[[patch]]\n").unwrap().contains("missing field `file`"));
    assert_eq!(required("/$defs/patch"), json!(["file"]));
}

#[test]
fn the_examples_of_the_documentation_pass_both() {
    let document = include_str!("../../../../docs/kcache.toml.md");
    let examples: Vec<&str> =
        document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        assert_eq!(objection(example), None, "{example}");
        let value: Value = serde_json::to_value(::toml::from_str::<::toml::Value>(example).unwrap()).unwrap();
        passes(&schema(), &schema(), &value);
    }
}

/// The part of JSON Schema that this schema uses.
fn passes(schema: &Value, rule: &Value, value: &Value) {
    let rule = match rule["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => rule,
    };
    let is_of_type = match rule["type"].as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        other => panic!("type {other}"),
    };
    assert!(is_of_type, "{value} is no {}", rule["type"]);
    for item in value.as_array().into_iter().flatten() {
        passes(schema, &rule["items"], item);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        passes(schema, rule["properties"].get(name).unwrap_or_else(|| panic!("no field {name}")), value);
    }
    for name in rule["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{name} is missing in {value}");
    }
}
