package console

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that are made from the code: ui/src/api/types.ts, docs/console.png")

// TestScreensTypes holds the screens' view of the API to ours.
func TestScreensTypes(t *testing.T) {
	const file = "../ui/src/api/types.ts"
	want := typescript()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s does not say what the API answers; run: go test ./console -run ScreensTypes -update", file)
	}
}

// typescript writes the types of the API's answers.
func typescript() string {
	names, seen := []string{}, map[string]reflect.Type{}
	var visit func(t reflect.Type) string
	visit = func(t reflect.Type) string {
		switch {
		case t == reflect.TypeFor[json.RawMessage]():
			return "Flow"
		case t.PkgPath() == "time" && t.Name() == "Time":
			return "string"
		}
		switch t.Kind() {
		case reflect.Pointer:
			return visit(t.Elem()) + " | null"
		case reflect.String:
			return "string"
		case reflect.Bool:
			return "boolean"
		case reflect.Slice:
			if inner := visit(t.Elem()); strings.Contains(inner, "|") {
				return "(" + inner + ")[]"
			} else {
				return inner + "[]"
			}
		case reflect.Interface:
			return "Cell"
		case reflect.Struct:
			name := typeName(t)
			if seen[name] == nil {
				seen[name] = t
				for _, f := range jsonFields(t) {
					visit(f.typ)
				}
				names = append(names, name)
			}
			return name
		}
		return "number"
	}
	for _, rt := range routeList() {
		if a := reflect.TypeOf(rt.answer); a.Kind() == reflect.Struct {
			visit(a)
		}
	}
	visit(reflect.TypeFor[apiError]())
	var b strings.Builder
	b.WriteString("// What the API answers. Made from the Go types: go test ./console -run ScreensTypes -update\n\n")
	b.WriteString("/** A cell of a table. */\nexport type Cell = string | number | null;\n\n")
	b.WriteString("/** A flow record by its columns; what is unknown is missing. */\nexport type Flow = { [column: string]: Cell | { [element: string]: unknown } | undefined };\n")
	for _, name := range names {
		fmt.Fprintf(&b, "\nexport interface %s {\n", name)
		for _, f := range jsonFields(seen[name]) {
			mark := ""
			if f.optional {
				mark = "?"
			}
			fmt.Fprintf(&b, "  %s%s: %s;\n", f.name, mark, visit(f.typ))
		}
		b.WriteString("}\n")
	}
	return strings.ReplaceAll(b.String(), "newest: Flow;", "newest: Flow | null;")
}
