"""What to change in the configuration of a web server, by what is wrong and which server it is."""

from collections.abc import Mapping
from typing import Any, Final

from fastfcgi.site import pattern

# Kind of server -> its name.
SERVERS: Final = {
    "nginx": "nginx",
    "lighttpd": "lighttpd",
    "lighttpd2": "lighttpd2",
    "apache": "Apache with mod_proxy_fcgi",
    "apache-fcgid": "Apache with mod_fcgid",
    "haproxy": "HAProxy",
    "caddy": "Caddy",
    "h2o": "H2O",
    "": "the web server",
}


def recognised(software: str, server: str, proxied: bool = False) -> str:
    """The kind of a web server, "" if it is none of those above.

    Args:
        software: SERVER_SOFTWARE of the environ, "" where that is not known.
        server: The response header Server.
        proxied: SCRIPT_FILENAME is as Apache's mod_proxy_fcgi has it.
    """
    for text in (software, server):
        name = text.partition("/")[0].partition(" ")[0].lower()
        if name == "lighttpd":
            return "lighttpd2" if text.startswith("lighttpd/2") else "lighttpd"
        if name == "apache":
            return "apache" if proxied or not software else "apache-fcgid"
        if name in SERVERS and name:
            return name
    return ""


# Apache's SCRIPT_NAME is the whole path; $1 is what follows the mount.
_BELOW_MOUNT: Final = "reqenv('SCRIPT_NAME') =~ m#^{pattern}((?s)/.*)?$#"

_PATHS_AT_ROOT: Final = {
    "nginx": [
        "In this location, after `include fastcgi_params;`:",
        '    fastcgi_param SCRIPT_NAME "";',
        "    fastcgi_param PATH_INFO $fastcgi_script_name;",
    ],
    "lighttpd": [
        "In fastcgi.server, beside the socket:",
        '    "check-local" => "disable",',
        '    "fix-root-scriptname" => "enable"',
    ],
    "lighttpd2": ['core.wsgi("/", { fastcgi "{address}"; });'],
    "apache": [
        "Beside ProxyPass:",
        '    ProxyFCGISetEnvIf "true" PATH_INFO "%{reqenv:SCRIPT_NAME}"',
        '    ProxyFCGISetEnvIf "true" SCRIPT_NAME ""',
    ],
    "apache-fcgid": [
        "Mind both slashes:",
        '    ScriptAlias "/" "/srv/app/app.fcgi/"',
    ],
    "haproxy": ["In fcgi-app:", "    path-info ^()(/.*)$"],
    "caddy": ["In transport fastcgi: no `split` and no `index` (php_fastcgi has both)."],
    "": ["SCRIPT_NAME has to be empty, PATH_INFO the whole path."],
}

_PATHS_AT_MOUNT: Final = {
    "nginx": [
        "In this order, beside fastcgi_pass:",
        "    location ~ ^{mount}(?<path_info>/.*)?$ {",
        "        include fastcgi_params;",
        "        fastcgi_param SCRIPT_NAME {mount};",
        "        fastcgi_param PATH_INFO $path_info;",
        "    }",
    ],
    "lighttpd": [
        "In fastcgi.server the key has to be the mount, without fix-root-scriptname:",
        '    "{mount}" => (( "socket" => "{path}", "check-local" => "disable" ))',
    ],
    "lighttpd2": ['core.wsgi("{mount}", { fastcgi "{address}"; });'],
    "apache": [
        'In <Location "{mount}">, beside ProxyPass "{proxy}":',
        f'    ProxyFCGISetEnvIf "{_BELOW_MOUNT}" PATH_INFO "$1"',
        '    ProxyFCGISetEnvIf "true" SCRIPT_NAME "{mount}"',
    ],
    "apache-fcgid": ['    ScriptAlias "{mount}" "/srv/app/app.fcgi"'],
    "haproxy": ["In fcgi-app:", "    path-info ^({mount})(/.*)?$"],
    "caddy": ["In transport fastcgi:", "    split {mount}"],
    "h2o": ["H2O cannot split a path. The application has to be told, see below."],
    "": ["SCRIPT_NAME has to be {mount}, PATH_INFO what follows it."],
}

_FIXED_MOUNT: Final = [
    "Or leave the web server as it is, and tell the application where it is:",
    "    fastcgi serve --mount {mount} ...",
]

_ADVICE: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "query-lost": {
        "nginx": ["fastcgi_param QUERY_STRING $query_string;  (it is in fastcgi_params)"],
        "": ["It has to send QUERY_STRING, or REQUEST_URI with the query."],
    },
    "https-missing": {
        "nginx": [
            "fastcgi_param HTTPS $https if_not_empty;  (it is in fastcgi_params)",
            "Behind a proxy that ends TLS, in http:",
            '    map $http_x_forwarded_proto $client_https { default ""; https on; }',
            "and in the location: fastcgi_param HTTPS $client_https if_not_empty;",
        ],
        "lighttpd": [
            "Behind a proxy that ends TLS, with that proxy's address:",
            '    server.modules += ( "mod_extforward" )',
            '    extforward.forwarder = ( "127.0.0.1" => "trust" )',
            '    extforward.headers = ( "X-Forwarded-For" )',
        ],
        "apache": ['Behind a proxy: SetEnvIf X-Forwarded-Proto "^https$" HTTPS=on'],
        "apache-fcgid": ['Behind a proxy: SetEnvIf X-Forwarded-Proto "^https$" HTTPS=on'],
        "haproxy": [
            "Behind a proxy, in fcgi-app:",
            "    set-param HTTPS on if { hdr(x-forwarded-proto) https }",
        ],
        "caddy": ["Behind a proxy, in transport fastcgi: env HTTPS on"],
        "": [
            "It has to send the param HTTPS with the value on. A proxy that ends TLS has to say so",
            "by X-Forwarded-Proto: https, and the web server behind it to make HTTPS of that.",
            "Where all is https: fastcgi serve --environ HTTPS=on",
        ],
    },
    "host-port": {
        "nginx": [
            "Recent fastcgi_params of Debian leave the port out. After the include:",
            "    fastcgi_param HTTP_HOST $host:$server_port;",
            "(or $http_host, where another port is forwarded to this one)",
        ],
        "": ["It has to pass the header Host as it came, with the port."],
    },
    "host-changed": {
        "nginx": [
            "In the server that has proxy_pass to this one:",
            "    proxy_set_header Host $http_host;",
        ],
        "apache": ["In the proxy before it: ProxyPreserveHost On"],
        "": ["Each proxy has to pass the header Host as it came."],
    },
    "authorization": {
        "nginx": [
            "Something has removed it; this would put it back:",
            "    fastcgi_param HTTP_AUTHORIZATION $http_authorization;",
        ],
        "apache": ['In <Location "{slash}">:', "    CGIPassAuth On"],
        "apache-fcgid": ["In the <Directory> of the script:", "    CGIPassAuth On"],
        "haproxy": ["In fcgi-app:", "    pass-header Authorization"],
        "": ["It has to pass the request header Authorization."],
    },
    "body-limit": {
        "nginx": ["client_max_body_size 64m;  (in http, server or location; 1m without it)"],
        "lighttpd": ["server.max-request-size = 65536  (in KiB)"],
        "apache": ["LimitRequestBody 67108864"],
        "apache-fcgid": ["FcgidMaxRequestLen 67108864  (131072 without it)"],
        "h2o": ["limit-request-body: 67108864"],
        "caddy": ["request_body { max_size 64MB }"],
        "": ["Its limit for request bodies has to be raised."],
    },
    "body": {
        "nginx": [
            "These have to be there (they are in fastcgi_params), and fastcgi_pass_request_body",
            "has to be on, as it is without that line:",
            "    fastcgi_param REQUEST_METHOD $request_method;",
            "    fastcgi_param CONTENT_TYPE $content_type;",
            "    fastcgi_param CONTENT_LENGTH $content_length;",
        ],
        "": ["It has to send the body as STDIN, and CONTENT_LENGTH."],
    },
    "response-header": {
        "nginx": [
            "fastcgi_buffer_size 32k;",
            "fastcgi_buffers 8 32k;",
        ],
        "haproxy": ["In global: tune.bufsize 32768"],
        "apache-fcgid": ["LimitRequestFieldSize does not help here: mod_fcgid takes 8 KiB a line."],
        "": ["Its buffer for response headers has to be larger."],
    },
    "request-header": {
        "nginx": ["large_client_header_buffers 4 16k;"],
        "lighttpd": ["server.max-request-field-size = 32768"],
        "apache": ["LimitRequestFieldSize 16380"],
        "apache-fcgid": ["LimitRequestFieldSize 16380"],
        "haproxy": ["In global: tune.bufsize 32768"],
        "": [],
    },
    "buffered": {
        "nginx": [
            "fastcgi_buffering off;",
            "or, for one response: the application sends the header X-Accel-Buffering: no",
        ],
        "lighttpd": ["server.stream-response-body = 2"],
        "apache": ["In ProxyPass or <Proxy>: flushpackets=on"],
        "apache-fcgid": ["FcgidOutputBufferSize 0"],
        "caddy": ["In reverse_proxy: flush_interval -1"],
        "": [],
    },
    "request-buffering": {
        "nginx": ["fastcgi_request_buffering off;  (threads then wait for slow clients)"],
        "lighttpd": ["server.stream-request-body = 2  (threads then wait for slow clients)"],
        "": [],
    },
    "slash": {
        "apache": ["In the virtual host: AllowEncodedSlashes On"],
        "apache-fcgid": ["In the virtual host: AllowEncodedSlashes On"],
        "": [],
    },
    "http-spoken": {
        "nginx": ["fastcgi_pass {address};  in the place of proxy_pass, and fastcgi_param lines"],
        "lighttpd": ["fastcgi.server in the place of proxy.server"],
        "apache": ['In <Location "{slash}">: ProxyPass "{proxy}"  in the place of http://'],
        "haproxy": ["server app ADDRESS proto fcgi  and use-fcgi-app NAME in the backend"],
        "caddy": ["In reverse_proxy: transport fastcgi"],
        "h2o": ["fastcgi.connect in the place of proxy.reverse.url"],
        "": ["It has to speak FastCGI to this address, not HTTP."],
    },
    "scgi-spoken": {
        "nginx": ["fastcgi_pass {address};  in the place of scgi_pass"],
        "lighttpd": ["fastcgi.server in the place of scgi.server"],
        "apache": ['In <Location "{slash}">: ProxyPass "{proxy}"  in the place of scgi://'],
        "": ["It has to speak FastCGI to this address, not SCGI."],
    },
    "not-reached": {
        "nginx": ["Which server and location takes this URL? See nginx -T."],
        "lighttpd": ['"check-local" => "disable" in fastcgi.server; else it looks for a file.'],
        "apache": ['Is "Require all granted" there for this <Location>? See apache2ctl -S.'],
        "apache-fcgid": ["Options +ExecCGI, SetHandler fcgid-script, and Require all granted."],
        "": ["Which part of its configuration takes this URL?"],
    },
    "intercepted": {
        "nginx": ["fastcgi_intercept_errors off;"],
        "lighttpd": ["server.error-intercept is on."],
        "apache": ["ProxyErrorOverride Off"],
        "caddy": ["handle_response or handle_errors is there."],
        "": [],
    },
    "timeout": {
        "nginx": ["fastcgi_read_timeout 60s;  is its limit"],
        "apache": ["ProxyTimeout is its limit"],
        "apache-fcgid": ["FcgidIOTimeout 40 is its limit"],
        "haproxy": ["timeout server is its limit"],
        "": [],
    },
}


def lines(key: str, server: str, mount: str = "", address: str = "") -> tuple[str, ...]:
    """What to tell about this finding.

    Args:
        key: One of the names above, or "paths".
        server: A kind of server, "" if that is not known.
        mount: Where the application has to be, "" for the root.
        address: Of the application, as in --bind.
    """
    if key == "paths":
        table: Mapping[str, list[str]] = _PATHS_AT_MOUNT if mount else _PATHS_AT_ROOT
        found = [*table.get(server, table[""])]
        if mount:
            found += _FIXED_MOUNT
    else:
        table = _ADVICE[key]
        found = [*table.get(server, table[""])]
    values = _values(mount, address or "unix:/run/app/app.sock")
    texts = [_filled(line, values) for line in found]
    return (f"For {SERVERS[server]}:", *(f"  {text}" for text in texts)) if texts else ()


def _values(mount: str, address: str) -> dict[str, Any]:
    path = address.removeprefix("unix:")
    slash = mount or "/"
    proxy = f"unix:{path}|fcgi://app{slash}" if "/" in path else f"fcgi://{address}{slash}"
    values = {"mount": mount, "slash": slash, "pattern": pattern(mount), "address": address}
    return {**values, "path": path, "proxy": proxy}


def _filled(line: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        line = line.replace("{" + name + "}", value)
    return line
