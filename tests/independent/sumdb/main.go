// Command sumdb audits a published C2SP tlog-tiles log with code that others wrote: golang.org/x/mod/sumdb (the Go
// checksum database's notes, tiles and proofs) and, for a second opinion on roots and inclusion paths, NebulousLabs'
// merkletree. What is written here only moves bytes between HTTP and those packages, so its verdict is theirs.
//
//	sumdb -url https://host:port -ca ca.pem -vkey VKEY [-older checkpoint]... [-proof ENTRY:file.tlog-proof]...
//
// It reads the whole log: every tile, every entry bundle. Exit status 0 and one line of JSON say that everything
// verifies; anything else is exit status 1 with the reason on standard error.
//
// Built in GOPATH mode from Debian's golang-golang-x-mod-dev and golang-github-nebulouslabs-merkletree-dev, without
// a network: GO111MODULE=off GOPATH=/usr/share/gocode go build .
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/NebulousLabs/merkletree"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	maxBody    = 1 << 20
	proofMagic = "c2sp.org/tlog-proof@v1"
)

// A checkpoint is a verified note's tree head.
type checkpoint struct {
	tlog.Tree
	ignored int // signature lines by keys that are not ours to know
}

// openCheckpoint verifies a signed note by the one key and reads its three lines.
func openCheckpoint(msg []byte, verifier note.Verifier) (checkpoint, error) {
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return checkpoint{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return checkpoint{}, fmt.Errorf("a checkpoint of %d lines", len(lines)-1)
	}
	if lines[0] != verifier.Name() {
		return checkpoint{}, fmt.Errorf("a checkpoint of %q", lines[0])
	}
	size, err := decimal(lines[1])
	if err != nil {
		return checkpoint{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return checkpoint{}, err
	}
	return checkpoint{tlog.Tree{N: size, Hash: root}, len(opened.UnverifiedSigs)}, nil
}

func decimal(text string) (int64, error) {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil || value < 0 || strconv.FormatInt(value, 10) != text {
		return 0, fmt.Errorf("%q is no plain decimal", text)
	}
	return value, nil
}

// A log is reached over HTTPS. It implements tlog.TileReader.
type log struct {
	client *http.Client
	url    string
	tiles  map[string][]byte
}

func (l *log) get(path string) ([]byte, error) {
	answer, err := l.client.Get(l.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxBody))
}

// c2spPath maps sumdb's tile/8/<L>/... and tile/8/data/... to C2SP's tile/<L>/... and tile/entries/...
func c2spPath(tile tlog.Tile) string {
	rest := strings.TrimPrefix(tile.Path(), "tile/8/")
	return "tile/" + strings.Replace(rest, "data/", "entries/", 1)
}

func (l *log) Height() int { return tileHeight }

func (l *log) SaveTiles([]tlog.Tile, [][]byte) {}

func (l *log) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		path := c2spPath(tile)
		data, known := l.tiles[path]
		if !known {
			var err error
			if data, err = l.get(path); err != nil {
				return nil, err
			}
			if len(data) != tile.W*tlog.HashSize {
				return nil, fmt.Errorf("%s has %d bytes", path, len(data))
			}
			l.tiles[path] = data
		}
		found = append(found, data)
	}
	return found, nil
}

// bundle returns the entries below a level-0 tile.
func (l *log) bundle(index int64, width int) ([][]byte, error) {
	path := c2spPath(tlog.Tile{H: tileHeight, L: -1, N: index, W: width})
	data, err := l.get(path)
	if err != nil {
		return nil, err
	}
	entries := make([][]byte, 0, width)
	for len(data) >= 2 {
		length := int(binary.BigEndian.Uint16(data))
		if len(data) < 2+length {
			return nil, fmt.Errorf("%s ends within an entry", path)
		}
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(data) != 0 || len(entries) != width {
		return nil, fmt.Errorf("%s has %d entries and %d bytes more", path, len(entries), len(data))
	}
	return entries, nil
}

// readEntries returns every entry of the log, and the hashes of the tree that tlog builds over them: both
// implementations must arrive at the root of the checkpoint.
func (l *log) readEntries(tree tlog.Tree) ([][]byte, tlog.HashReader, error) {
	entries := make([][]byte, 0, tree.N)
	var stored []tlog.Hash
	rebuilt := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = stored[index]
		}
		return found, nil
	})
	second := merkletree.New(sha256.New())
	for first := int64(0); first < tree.N; first += tileWidth {
		width := int64(tileWidth)
		if tree.N-first < width {
			width = tree.N - first
		}
		found, err := l.bundle(first/tileWidth, int(width))
		if err != nil {
			return nil, nil, err
		}
		for i, entry := range found {
			added, err := tlog.StoredHashes(first+int64(i), entry, rebuilt)
			if err != nil {
				return nil, nil, err
			}
			stored = append(stored, added...)
			second.Push(entry)
		}
		entries = append(entries, found...)
	}
	root, err := tlog.TreeHash(tree.N, rebuilt)
	if err != nil {
		return nil, nil, err
	}
	if root != tree.Hash || !bytes.Equal(second.Root(), tree.Hash[:]) {
		return nil, nil, errors.New("the entries have another root than the checkpoint")
	}
	return entries, rebuilt, nil
}

// checkTiles compares every tile that a tree of this size has with the one that tlog cuts from its own tree. (The
// TileHashReader of x/mod 0.7.0 leaves some full tiles unauthenticated when subtrees of the right edge share a tile.)
func (l *log) checkTiles(tree tlog.Tree, rebuilt tlog.HashReader) (int, error) {
	checked := 0
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		if last := tree.N >> uint(tileHeight*tile.L) % tileWidth; tile.W < tileWidth && int64(tile.W) != last {
			continue // a narrower form of the last tile, which belongs to smaller trees
		}
		expected, err := tlog.ReadTileData(tile, rebuilt)
		if err != nil {
			return 0, err
		}
		served, err := l.ReadTiles([]tlog.Tile{tile})
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(served[0], expected) {
			return 0, fmt.Errorf("%s does not belong to the entries", c2spPath(tile))
		}
		checked++
	}
	return checked, nil
}

// checkInclusion asks both implementations.
func checkInclusion(path tlog.RecordProof, tree tlog.Tree, index int64, entry []byte) error {
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return fmt.Errorf("entry %d of %d: %v", index, tree.N, err)
	}
	set := [][]byte{entry}
	for i := range path {
		set = append(set, path[i][:])
	}
	if !merkletree.VerifyProof(sha256.New(), tree.Hash[:], set, uint64(index), uint64(tree.N)) {
		return fmt.Errorf("entry %d of %d: merkletree refuses the path", index, tree.N)
	}
	return nil
}

// checkGrowth proves from tiles that an older tree is a prefix of this one.
func checkGrowth(older, tree tlog.Tree, hashes tlog.HashReader) error {
	if older.N > tree.N || older.N == 0 {
		return fmt.Errorf("a tree of %d does not come before one of %d", older.N, tree.N)
	}
	proof, err := tlog.ProveTree(tree.N, older.N, hashes)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash); err != nil {
		return fmt.Errorf("the tree of %d does not extend that of %d: %v", tree.N, older.N, err)
	}
	return nil
}

// parseProof reads a .tlog-proof file: the index, the path, and the checkpoint note.
func parseProof(text string) (int64, tlog.RecordProof, []byte, error) {
	head, signed, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[1], "extra ") {
		lines = append(lines[:1], lines[2:]...)
	}
	if !found || lines[0] != proofMagic || len(lines) < 2 || !strings.HasPrefix(lines[1], "index ") {
		return 0, nil, nil, errors.New("this is no tlog-proof")
	}
	index, err := decimal(strings.TrimPrefix(lines[1], "index "))
	if err != nil {
		return 0, nil, nil, err
	}
	var path tlog.RecordProof
	for _, line := range lines[2:] {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return 0, nil, nil, fmt.Errorf("%q is no hash", line)
		}
		var hash tlog.Hash
		copy(hash[:], raw)
		path = append(path, hash)
	}
	return index, path, []byte(signed), nil
}

// checkProof verifies a .tlog-proof of an entry by itself, and that its tree is a prefix of the log's.
func checkProof(given string, verifier note.Verifier, tree tlog.Tree, hashes tlog.HashReader) error {
	hexEntry, name, _ := strings.Cut(given, ":")
	entry, err := hex.DecodeString(hexEntry)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	index, path, signed, err := parseProof(string(text))
	if err != nil {
		return err
	}
	covering, err := openCheckpoint(signed, verifier)
	if err != nil {
		return err
	}
	if index >= covering.N {
		return fmt.Errorf("index %d is not in a tree of %d", index, covering.N)
	}
	if err := checkInclusion(path, covering.Tree, index, entry); err != nil {
		return err
	}
	return checkGrowth(covering.Tree, tree, hashes)
}

// checkSample proves entries included from tiles: those around tile boundaries, the last, and some between.
func checkSample(entries [][]byte, tree tlog.Tree, hashes tlog.HashReader) (int, error) {
	checked := 0
	for index := int64(0); index < tree.N; index++ {
		place := index % tileWidth
		boundary := (place == 0 || place == tileWidth-1) && index < 3*tileWidth
		if !boundary && index != tree.N-1 && index%997 != 0 {
			continue
		}
		path, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return 0, err
		}
		if err := checkInclusion(path, tree, index, entries[index]); err != nil {
			return 0, err
		}
		checked++
	}
	return checked, nil
}

type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func run() (map[string]interface{}, error) {
	var older, proofs list
	url := flag.String("url", "", "the log's prefix")
	ca := flag.String("ca", "", "PEM file of the authority of its certificate")
	vkey := flag.String("vkey", "", "the log's Ed25519 key")
	flag.Var(&older, "older", "file with an earlier checkpoint of this log; repeatable")
	flag.Var(&proofs, "proof", "ENTRY:FILE, a .tlog-proof of an entry given in hex; repeatable")
	flag.Parse()

	verifier, err := note.NewVerifier(*vkey)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", *ca)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}}
	l := &log{
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		url:    strings.TrimSuffix(*url, "/"),
		tiles:  map[string][]byte{},
	}

	signed, err := l.get("checkpoint")
	if err != nil {
		return nil, err
	}
	newest, err := openCheckpoint(signed, verifier)
	if err != nil {
		return nil, err
	}
	if newest.N == 0 {
		return nil, errors.New("the log is empty")
	}
	entries, rebuilt, err := l.readEntries(newest.Tree)
	if err != nil {
		return nil, err
	}
	tiles, err := l.checkTiles(newest.Tree, rebuilt)
	if err != nil {
		return nil, err
	}
	hashes := tlog.TileHashReader(newest.Tree, l)
	sampled, err := checkSample(entries, newest.Tree, hashes)
	if err != nil {
		return nil, err
	}
	for _, name := range older {
		signed, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		before, err := openCheckpoint(signed, verifier)
		if err != nil {
			return nil, err
		}
		if err := checkGrowth(before.Tree, newest.Tree, hashes); err != nil {
			return nil, err
		}
	}
	for _, given := range proofs {
		if err := checkProof(given, verifier, newest.Tree, hashes); err != nil {
			return nil, err
		}
	}
	return map[string]interface{}{
		"size": newest.N, "root": newest.Hash.String(), "ignored_signatures": newest.ignored,
		"entries": len(entries), "tiles": tiles, "sampled": sampled, "older": len(older), "proofs": len(proofs),
	}, nil
}

func main() {
	report, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(report)
}
