// Package bundle turns the console's sources into what is embedded.
//
// In: ui/src, and the packages of ui/package-lock.json in ui/node_modules.
// Out: index.html, app.js, app.css and the packages' licences, minified and
// the same octets for the same input.
package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// Console builds the console of the ui folder root into the folder out.
func Console(root, out string) error {
	if _, err := os.Stat(filepath.Join(root, "node_modules", "preact")); err != nil {
		return fmt.Errorf("%s/node_modules is missing; run: npm ci --prefix %s", root, root)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:       root,
		EntryPointsAdvanced: []api.EntryPoint{{InputPath: "src/main.tsx", OutputPath: "app"}},
		Bundle:              true,
		Format:              api.FormatESModule,
		Target:              api.ES2022,
		JSX:                 api.JSXAutomatic,
		JSXImportSource:     "preact",
		MinifyWhitespace:    true,
		MinifyIdentifiers:   true,
		MinifySyntax:        true,
		LegalComments:       api.LegalCommentsNone, // they are in licences.txt
		Charset:             api.CharsetUTF8,
		Outdir:              filepath.Join(root, "dist"),
		Write:               false,
		LogLevel:            api.LogLevelSilent,
	})
	if err := failure(result.Errors); err != nil {
		return err
	}
	files := map[string][]byte{}
	for _, f := range result.OutputFiles {
		files[filepath.Base(f.Path)] = f.Contents
	}
	for _, name := range []string{"index.html", "icon.svg"} {
		if files[name], err = os.ReadFile(filepath.Join(root, "src", name)); err != nil {
			return err
		}
	}
	if files["licences.txt"], err = licences(root, "preact", "uplot"); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	old, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	for _, f := range old {
		if files[f.Name()] == nil {
			if err := os.Remove(filepath.Join(out, f.Name())); err != nil {
				return err
			}
		}
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(out, name), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Test bundles one test file, which needs no packages, for node --test.
func Test(root, entry, out string) error {
	result := api.Build(api.BuildOptions{
		AbsWorkingDir: root,
		EntryPoints:   []string{entry},
		Bundle:        true,
		Format:        api.FormatESModule,
		Platform:      api.PlatformNode,
		Outfile:       out,
		Write:         true,
		LogLevel:      api.LogLevelSilent,
	})
	return failure(result.Errors)
}

func failure(messages []api.Message) error {
	var errs []error
	for _, m := range messages {
		place := ""
		if m.Location != nil {
			place = fmt.Sprintf("%s:%d:%d: ", m.Location.File, m.Location.Line, m.Location.Column+1)
		}
		errs = append(errs, errors.New(place+m.Text))
	}
	return errors.Join(errs...)
}

// licences gathers the terms of the packages that are in the bundle.
func licences(root string, packages ...string) ([]byte, error) {
	var b strings.Builder
	for _, p := range packages {
		text, err := os.ReadFile(filepath.Join(root, "node_modules", p, "LICENSE"))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\n%s\n\n%s\n\n", p, strings.Repeat("=", len(p)), strings.TrimSpace(string(text)))
	}
	return []byte(b.String()), nil
}
