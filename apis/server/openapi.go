package server

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/component-base/version"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
)

// openAPI serves the OpenAPI documents of the built-in groups. Upstream
// builds all of them when the server starts, and marshals them only to have
// an etag: a third of the start. Here the list of documents is known from the
// routes, a document is built when somebody asks for it, and its etag is made
// of everything that it is made of: the version of this program, its feature
// gates, and the routes.
type openAPI struct {
	container *restful.Container
	v2        *openapicommon.Config
	v3        *openapicommon.OpenAPIV3Config
	started   time.Time

	v2Once    sync.Once
	v2Handler *mux.PathRecorderMux
	// documents of v3 by path below /openapi/v3, and their list; fixed after
	// install.
	documents map[string]*document
	root      []byte
	rootTag   string
}

// document is the OpenAPI v3 of one group version.
type document struct {
	service *restful.WebService
	etag    string

	once    sync.Once
	handler *mux.PathRecorderMux
}

// shared is what each server of the chain has. The aggregator lists and serves
// a document of several from any of them, so that theirs, whose etags are of
// what it holds, must not stand beside one with ours: its address in the list
// would then answer, at random, with a redirect.
const shared = "/version"

// installOpenAPI is for a server with SkipOpenAPIInstallation whose groups are
// all installed.
func installOpenAPI(s *genericapiserver.GenericAPIServer, c *genericapiserver.Config) error {
	o := &openAPI{
		container: s.Handler.GoRestfulContainer,
		v2:        c.OpenAPIConfig,
		v3:        c.OpenAPIV3Config,
		started:   time.Now(),
		documents: map[string]*document{},
	}
	salt := fmt.Sprint(version.Get(), modules(), c.FeatureGate, c.OpenAPIV3Config.Info)
	for _, service := range o.container.RegisteredWebServices() {
		if service.RootPath() == shared {
			continue
		}
		hash := sha512.New()
		fmt.Fprintln(hash, salt, service.RootPath())
		for _, route := range service.Routes() {
			fmt.Fprintln(hash, route.Method, route.Path, route.Operation)
		}
		o.documents[strings.TrimPrefix(service.RootPath(), "/")] = &document{
			service: service,
			etag:    fmt.Sprintf("%X", hash.Sum(nil)),
		}
	}
	root := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for path, doc := range o.documents {
		root.Paths[path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: doc.url(path)}
	}
	var err error
	if o.root, err = json.Marshal(root); err != nil {
		return fmt.Errorf("list OpenAPI documents: %w", err)
	}
	o.rootTag = fmt.Sprintf("%X", sha512.Sum512(o.root))
	to := s.Handler.NonGoRestfulMux
	to.Handle("/openapi/v2", http.HandlerFunc(o.serveV2))
	to.Handle("/openapi/v3", http.HandlerFunc(o.serveV3Root))
	to.HandlePrefix("/openapi/v3/", http.HandlerFunc(o.serveV3))
	return nil
}

// narrowed is config with fewer types to choose from.
func narrowed(config *openapicommon.Config, definitions openapicommon.GetOpenAPIDefinitions) *openapicommon.Config {
	narrow := *config
	narrow.GetDefinitions = utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(definitions)
	return &narrow
}

// modules are the versions of the libraries that the API types come from.
func modules() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var all strings.Builder
	for _, module := range info.Deps {
		if strings.HasPrefix(module.Path, "k8s.io/") {
			fmt.Fprintln(&all, module.Path, module.Version, module.Sum)
		}
	}
	return all.String()
}

func (o *openAPI) serveV2(w http.ResponseWriter, r *http.Request) {
	o.v2Once.Do(func() {
		o.v2Handler = mux.NewPathRecorderMux("openapi-v2")
		routes.OpenAPI{Config: o.v2}.InstallV2(o.container, o.v2Handler)
	})
	o.v2Handler.ServeHTTP(w, r)
}

// serveV3Root is asked once a second by the aggregator.
func (o *openAPI) serveV3Root(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Etag", strconv.Quote(o.rootTag))
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "/openapi/v3", o.started, bytes.NewReader(o.root))
}

func (d *document) url(path string) string {
	u := url.URL{Path: "/openapi/v3/" + path, RawQuery: url.Values{"hash": {d.etag}}.Encode()}
	return u.String()
}

// serveV3 lets upstream serve the document and puts our etag in the place of
// its own.
func (o *openAPI) serveV3(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	doc, ok := o.documents[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	hash := r.URL.Query().Get("hash")
	if hash != "" && hash != doc.etag {
		http.Redirect(w, r, doc.url(path), http.StatusMovedPermanently)
		return
	}
	doc.once.Do(func() {
		one := restful.NewContainer().Add(doc.service)
		doc.handler = mux.NewPathRecorderMux("openapi-v3-" + path)
		routes.OpenAPI{V3Config: o.v3}.InstallV3(one, doc.handler)
	})

	inner := r.Clone(r.Context())
	inner.URL.RawQuery = ""
	for _, conditional := range []string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "Range", "If-Range"} {
		inner.Header.Del(conditional)
	}
	answer := httptest.NewRecorder()
	doc.handler.ServeHTTP(answer, inner)

	for key, values := range answer.Header() {
		if key != "Etag" && key != "Last-Modified" && key != "Content-Length" {
			w.Header()[key] = values
		}
	}
	if answer.Code != http.StatusOK {
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may have gone
		return
	}
	w.Header().Set("Etag", strconv.Quote(doc.etag))
	if hash != "" {
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(time.RFC1123))
	}
	http.ServeContent(w, r, "", o.started, bytes.NewReader(answer.Body.Bytes()))
}
