package console

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"weir/flow"
)

func (s *Server) openapi(w http.ResponseWriter, r *http.Request) error {
	return writeJSONBytes(w, r, description())
}

// description is the OpenAPI document, made once.
var description func() []byte

func init() { description = sync.OnceValue(describe) }

// describe makes the document from the list of routes, of which it is one, and
// the types of their answers.
func describe() []byte {
	type object = map[string]any
	schemas := object{}
	paths := object{}
	failure := object{
		"description": "The request failed; error says why in a line",
		"content":     object{"application/json": object{"schema": schemaOf(reflect.TypeFor[apiError](), schemas)}},
	}
	for _, rt := range routeList() {
		params := []any{}
		for _, p := range rt.params {
			params = append(params, object{
				"name": p.name, "in": "query", "required": p.required, "description": p.help,
				"schema": object{"type": p.kind},
			})
		}
		content := object{"application/json": object{"schema": schemaOf(reflect.TypeOf(rt.answer), schemas)}}
		for _, t := range rt.types {
			content[t] = object{"schema": object{"type": "string"}}
		}
		paths[apiRoot+rt.path] = object{"get": object{
			"operationId": operation(rt.path),
			"summary":     rt.summary,
			"parameters":  params,
			"responses": object{
				"200":     object{"description": "OK", "content": content},
				"default": failure,
			},
		}}
	}
	for path, summary := range map[string]string{
		"/metrics": "Metrics for Prometheus", "/healthz": "200 while the process serves",
		"/readyz": "200 when it is ready to work, 503 with the reason when not",
	} {
		paths[path] = object{"get": object{
			"operationId": strings.Trim(path, "/"), "summary": summary, "parameters": []any{},
			"responses": object{"200": object{"description": "OK", "content": object{"text/plain": object{"schema": object{"type": "string"}}}}},
		}}
	}
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "weir", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Flow records and what became of them. Packets and bytes are as metered or as exported, not multiplied by the sampling " +
				"rate; bytes count from the IP header. Times are RFC 3339 in UTC; those of a series are Unix seconds. What is unknown is left out or null, never 0. " +
				"An answer as CSV or NDJSON that a cap cut has X-Query-Truncated: true, as a header or a trailer.",
		},
		"paths":      paths,
		"components": object{"schemas": schemas},
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // maps of strings: cannot be
	}
	return append(b, '\n')
}

func operation(path string) string {
	path = strings.TrimSuffix(path, ".json")
	head, rest, _ := strings.Cut(path, "/")
	if rest == "" {
		return head
	}
	return head + strings.ToUpper(rest[:1]) + rest[1:]
}

// schemaOf describes how t is written in JSON; structs by name, in schemas.
func schemaOf(t reflect.Type, schemas map[string]any) map[string]any {
	type object = map[string]any
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		flowSchema(schemas)
		return object{"$ref": "#/components/schemas/Flow"}
	case t.PkgPath() == "time" && t.Name() == "Time":
		return object{"type": "string", "format": "date-time"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{"anyOf": []any{schemaOf(t.Elem(), schemas), object{"type": "null"}}}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		return object{"type": "object"}
	case reflect.Interface:
		return object{} // a cell: null, text or a number
	}
	name := typeName(t)
	if _, done := schemas[name]; !done {
		schemas[name] = nil // for types that hold themselves
		properties, required := object{}, []string{}
		for _, f := range jsonFields(t) {
			properties[f.name] = schemaOf(f.typ, schemas)
			if !f.optional {
				required = append(required, f.name)
			}
		}
		schemas[name] = object{"type": "object", "properties": properties, "required": required}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

// flowSchema describes a flow record by its columns.
func flowSchema(schemas map[string]any) {
	properties := map[string]any{}
	for c := range flow.Column(flow.NumColumns) {
		switch {
		case c == flow.ColElements:
			properties[c.String()] = map[string]any{"type": "object"}
		case textColumn(c):
			properties[c.String()] = map[string]any{"type": "string"}
		default:
			properties[c.String()] = map[string]any{"type": "integer", "minimum": 0}
		}
	}
	schemas["Flow"] = map[string]any{"type": []string{"object", "null"}, "properties": properties}
}

func typeName(t reflect.Type) string {
	if t == reflect.TypeFor[apiError]() {
		return "Error"
	}
	return t.Name()
}

type jsonField struct {
	name     string
	typ      reflect.Type
	optional bool
}

// jsonFields lists the fields that encoding/json writes, embedded ones inline.
func jsonFields(t reflect.Type) []jsonField {
	var fields []jsonField
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			fields = append(fields, jsonFields(f.Type)...)
		case f.IsExported() && tag != "-":
			fields = append(fields, jsonField{tag, f.Type, strings.Contains(options, "omit")})
		}
	}
	return fields
}
