"""Examples with scores that were published beside the models, used by `embedfleet verify`."""

from dataclasses import replace

from deployments.core.models.spec import PublishedExample

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"

# https://github.com/huggingface/sentence-transformers, README.md and docs/quickstart.rst
MINILM = PublishedExample(
    queries=(
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ),
    documents=(
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ),
    scores=((1.0, 0.6660, 0.1046), (0.6660, 1.0, 0.1411), (0.1046, 0.1411, 1.0)),
    scale=1.0,
    source="sentence-transformers, README",
)

# https://huggingface.co/intfloat/multilingual-e5-large-instruct
MULTILINGUAL_E5 = PublishedExample(
    queries=("how much protein should a female eat", "南瓜的家常做法"),
    documents=(
        (
            "As a general guideline, the CDC's average requirement of protein for "
            "women ages 19 to 70 is 46 grams per day. But, as you can see from this "
            "chart, you'll need to increase that if you're expecting or training for "
            "a marathon. Check out the chart below to see how much protein you "
            "should be eating each day."
        ),
        (
            "1.清炒南瓜丝 原料:嫩南瓜半个 调料:葱、盐、白糖、鸡精 做法: 1、南瓜用刀薄"
            "薄的削去表面一层皮,用勺子刮去瓤 2、擦成细丝(没有擦菜板就用刀慢慢切成细丝"
            ") 3、锅烧热放油,入葱花煸出香味 4、入南瓜丝快速翻炒一分钟左右,放盐、一点"
            "白糖和鸡精调味出锅 2.香葱炒南瓜 原料:南瓜1只 调料:香葱、蒜末、橄榄油、盐"
            " 做法: 1、将南瓜去皮,切成片 2、油锅8成热后,将蒜末放入爆香 3、爆香后,将南"
            "瓜片放入,翻炒 4、在翻炒的同时,可以不时地往锅里加水,但不要太多 5、放入盐,"
            "炒匀 6、南瓜差不多软和绵了之后,就可以关火 7、撒入香葱,即可出锅"
        ),
    ),
    scores=((91.92852783203125, 67.580322265625), (70.3814468383789, 92.1330795288086)),
    scale=100.0,
    source="model card of intfloat/multilingual-e5-large-instruct",
    instruction=WEB_SEARCH,
)

# https://huggingface.co/Linq-AI-Research/Linq-Embed-Mistral. Early copies of the card print 86.7153…
# instead: those are the digits of Salesforce/SFR-Embedding-Mistral's card, left over from a template.
LINQ = PublishedExample(
    queries=("최초의 원자력 발전소는 무엇인가?", "Who invented Hangul?"),
    documents=(
        (
            "현재 사용되는 핵분열 방식을 이용한 전력생산은 1948년 9월 미국 테네시주 "
            "오크리지에 설치된 X-10 흑연원자로에서 전구의 불을 밝히는 데 사용되면서 "
            "시작되었다. 그리고 1954년 6월에 구소련의 오브닌스크에 건설된 흑연감속 "
            "비등경수 압력관형 원자로를 사용한 오브닌스크 원자력 발전소가 시험적으로 "
            "전력생산을 시작하였고, 최초의 상업용 원자력 엉더이로를 사용한 영국 "
            "셀라필드 원자력 단지에 위치한 콜더 홀(Calder Hall) 원자력 발전소로, "
            "1956년 10월 17일 상업 운전을 시작하였다."
        ),
        (
            "Hangul was personally created and promulgated by the fourth king of the "
            "Joseon dynasty, Sejong the Great.[1][2] Sejong's scholarly institute, "
            "the Hall of Worthies, is often credited with the work, and at least one "
            "of its scholars was heavily involved in its creation, but it appears to "
            "have also been a personal project of Sejong."
        ),
    ),
    scores=((73.72909545898438, 30.122783660888672), (29.155078887939453, 79.25374603271484)),
    scale=100.0,
    source="model card of Linq-AI-Research/Linq-Embed-Mistral",
    instruction=WIKIPEDIA,
)

# https://github.com/FlagOpen/FlagEmbedding, research/BGE_M3/README.md, computed in float16
BGE_M3 = PublishedExample(
    queries=("What is BGE M3?", "Defination of BM25"),
    documents=(
        (
            "BGE M3 is an embedding model supporting dense retrieval, lexical matching and "
            "multi-vector interaction."
        ),
        (
            "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the "
            "query terms appearing in each document"
        ),
    ),
    scores=((0.6265, 0.3477), (0.3499, 0.678)),
    scale=1.0,
    source="model card of BAAI/bge-m3",
)

# https://huggingface.co/Alibaba-NLP/gte-modernbert-base
GTE_MODERNBERT = PublishedExample(
    queries=("what is the capital of China?",),
    documents=("how to implement quick sort in python?", "Beijing", "sorting algorithms"),
    scores=((42.89073944091797, 71.30911254882812, 33.664554595947266),),
    scale=100.0,
    source="model card of Alibaba-NLP/gte-modernbert-base",
)

# https://huggingface.co/google/embeddinggemma-300m
GEMMA = PublishedExample(
    queries=("Which planet is known as the Red Planet?",),
    documents=(
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ),
    scores=((0.3011, 0.6359, 0.4930, 0.4889),),
    scale=1.0,
    source="model card of google/embeddinggemma-300m",
)


# https://huggingface.co/Qwen/Qwen3-Embedding-0.6B, and the cards of the other two sizes
QWEN3_06B = PublishedExample(
    queries=("What is the capital of China?", "Explain gravity"),
    documents=(
        "The capital of China is Beijing.",
        (
            "Gravity is a force that attracts two bodies towards each other. It gives weight to "
            "physical objects and is responsible for the movement of planets around the sun."
        ),
    ),
    scores=((0.7645568251609802, 0.14142508804798126), (0.13549736142158508, 0.5999549627304077)),
    scale=1.0,
    source="model card of Qwen/Qwen3-Embedding-0.6B",
    instruction=WEB_SEARCH,
)
QWEN3_4B = replace(
    QWEN3_06B,
    scores=((0.7534, 0.1147), (0.0320, 0.6258)),
    source="model card of Qwen/Qwen3-Embedding-4B",
)
QWEN3_8B = replace(
    QWEN3_06B,
    scores=((0.7493016123771667, 0.0750647559762001), (0.08795969933271408, 0.6318399906158447)),
    source="model card of Qwen/Qwen3-Embedding-8B",
)

# https://huggingface.co/Salesforce/SFR-Embedding-Mistral, and the card of SFR-Embedding-2_R
SFR_MISTRAL = PublishedExample(
    queries=("How to bake a chocolate cake", "Symptoms of the flu"),
    documents=(
        (
            "To bake a delicious chocolate cake, you'll need the following ingredients: all-purpose "
            "flour, sugar, cocoa powder, baking powder, baking soda, salt, eggs, milk, vegetable oil, "
            "and vanilla extract. Start by preheating your oven to 350°F (175°C). In a mixing bowl, "
            "combine the dry ingredients (flour, sugar, cocoa powder, baking powder, baking soda, and "
            "salt). In a separate bowl, whisk together the wet ingredients (eggs, milk, vegetable oil, "
            "and vanilla extract). Gradually add the wet mixture to the dry ingredients, stirring until "
            "well combined. Pour the batter into a greased cake pan and bake for 30-35 minutes. Let it "
            "cool before frosting with your favorite chocolate frosting. Enjoy your homemade chocolate "
            "cake!"
        ),
        (
            "The flu, or influenza, is an illness caused by influenza viruses. Common symptoms of the "
            "flu include a high fever, chills, cough, sore throat, runny or stuffy nose, body aches, "
            "headache, fatigue, and sometimes nausea and vomiting. These symptoms can come on suddenly "
            "and are usually more severe than the common cold. It's important to get plenty of rest, "
            "stay hydrated, and consult a healthcare professional if you suspect you have the flu. In "
            "some cases, antiviral medications can help alleviate symptoms and reduce the duration of "
            "the illness."
        ),
    ),
    scores=((86.7153549194336, 36.64569091796875), (35.00493621826172, 82.0738525390625)),
    scale=100.0,
    source="model card of Salesforce/SFR-Embedding-Mistral",
    instruction=WEB_SEARCH,
)
SFR_2_R = replace(
    SFR_MISTRAL,
    scores=((40.132083892822266, 25.032529830932617), (15.006855010986328, 39.93733215332031)),
    source="model card of Salesforce/SFR-Embedding-2_R",
)
