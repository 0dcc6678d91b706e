package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"berth.dev/internal/service"
)

// ServicesName is the file, in the configuration folder, of services that Berth
// does not know.
const ServicesName = "services.toml"

// Services reads such a file. One that does not exist has none.
func Services(path string) ([]service.Definition, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the services: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the services: %w", err)
	}
	list, err := service.ParseAll(data) // which bounds them
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}
