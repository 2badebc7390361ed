// Command kstatus prints what Flux and `kubectl wait`-like tools make of objects: for each JSON object on standard
// input one JSON line with its kind, name, kstatus and message.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := judge(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func judge(in io.Reader, out io.Writer) error {
	objects, verdicts := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var fields map[string]any
		if err := objects.Decode(&fields); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// the library tells int64 from float64, as the API server's JSON does
		text, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(text); err != nil {
			return err
		}
		result, err := status.Compute(object)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		line := verdict{object.GetKind(), object.GetName(), result.Status.String(), result.Message}
		if err := verdicts.Encode(line); err != nil {
			return err
		}
	}
}
